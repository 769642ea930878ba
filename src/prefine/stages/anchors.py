"""The answers that an automatic budget may pull at: sampled, and in no training item."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefine.config.base import Component
from prefine.config.checking import listed
from prefine.config.sections import RunConfig
from prefine.data.sources import open_source
from prefine.errors import ConfigError
from prefine.models.protocol import HasWeights
from prefine.records import Completion, Prompt, Ranking
from prefine.run.rows import grouped_completions, ranking_of
from prefine.run.tables import parts, read_part, table_hash
from prefine.stages.inputs import read_completions
from prefine.stages.training_inputs import text_reader
from prefine.training.budget.anchors import Anchors
from prefine.training.budget.probe import FEWEST
from prefine.training.budget.settings import AnchorName, AutomaticBudget
from prefine.training.items import PlainItem, TokenizedItem


def check_automatic_budget(
    config: RunConfig, budget: AutomaticBudget, held_out: int, pairs_per_prompt: int | None
) -> None:
    """Check before any work that there will be anchors and enough held-out items.

    Args:
        config: The configuration.
        budget: Its budget.
        held_out: Prompts that will be held out, at most.
        pairs_per_prompt: The most pairs of a prompt; None if there may be any number.

    Raises:
        ConfigError: There will not be.
        DataError: The file of anchors cannot be read.
    """
    if held_out * (pairs_per_prompt or FEWEST) < 2 * FEWEST:
        raise ConfigError(
            f"train.regularizer_weight: auto needs {FEWEST} held-out items for its controller and "
            f"{FEWEST} that nothing reads, and at most {held_out} prompts are held out; set "
            f"pair.held_out_prompts to {2 * FEWEST} or more, give more prompts, or a fixed weight"
        )
    if budget.anchors is not None:
        source = Component(name="file", path=str(budget.anchors))
        open_source(source, where="train.regularizer.anchors")
    elif budget.anchor != "auto" and budget.shares.keys() - {"chosen"} and config.items_entries:
        raise ConfigError(
            f"train.regularizer.anchor: {budget.anchor!r} reads completions, and this "
            f"configuration starts with {listed(config.items_entries)}; name a file of "
            "completions (train.regularizer.anchors), or use anchor: chosen"
        )


def anchor_inputs(config: RunConfig, budget: AutomaticBudget) -> dict[str, str]:
    """Hashes of the tables of the run folder that anchors are read from."""
    if budget.anchors is not None or not budget.shares.keys() - {"chosen"}:
        return {}
    tables = (config.run_dir / name for name in ("completions", "rankings"))
    return {table.name: table_hash(table) for table in tables if table.is_dir()}


def read_anchors(
    config: RunConfig,
    policy: HasWeights,
    budget: AutomaticBudget,
    *,
    examples: Sequence[TokenizedItem],
    held_out: Sequence[TokenizedItem],
) -> Anchors:
    """The anchors that the budget asks for, tokenized: in no item, and to no held-out prompt.

    Raises:
        DataError: A file of completions cannot be read.
    """
    kinds = [kind for kind in budget.shares if kind != "chosen"]
    found: dict[AnchorName, list[PlainItem]] = {kind: [] for kind in kinds}
    if not kinds:
        return {}
    used = {text for item in examples for text in item.texts}
    unseen = {text.prompt for item in held_out for text in item.texts}
    reader = text_reader(policy, config)
    for prompt, completion, in_upper_half in _candidates(config.run_dir, budget.anchors):
        text = reader.read(prompt, completion).text
        if text is None or text in used or text.prompt in unseen:
            continue
        item = PlainItem(completion.id, (text,), word="anchor")
        for kind in kinds:
            if kind == "unused" or in_upper_half:
                found[kind].append(item)
    return found


def _candidates(folder: Path, file: Path | None) -> Iterator[tuple[Prompt, Completion, bool]]:
    """Answers to prompts, and whether each is in the upper half of its ranking."""
    if file is not None:
        source = Component(name="file", path=str(file))
        for prompt, completions in read_completions(source, where="train.regularizer.anchors"):
            for completion in completions:
                yield prompt, completion, False
        return
    if not (folder / "rankings").is_dir():
        return
    for path in parts(folder / "rankings"):
        groups = {
            prompt.id: (prompt, completions)
            for prompt, completions in grouped_completions(
                read_part(folder / "completions" / path.name)
            )
        }
        for ranking in map(ranking_of, read_part(path)):
            prompt, completions = groups[ranking.prompt_id]
            upper = upper_half(ranking)
            for completion in completions:
                yield prompt, completion, completion.id in upper


def upper_half(ranking: Ranking) -> frozenset[str]:
    """The completions in the upper half of a ranking.

    Without an order or scores of all, the scores are those of a Bradley-Terry fit of the duels.
    """
    # Here and not above: only the anchor "better" reads rankings.
    from prefine.pairing.protocol import scores_of
    from prefine.ranking.fitting.bradley_terry import fit_duels
    from prefine.ranking.protocol import Duel

    order = ranking.order
    if order is None:
        scores = scores_of(ranking)
        if scores is None:
            place = {id_: index for index, id_ in enumerate(ranking.completions)}
            duels = [Duel(place[duel.first], place[duel.second]) for duel in ranking.duels]
            fit = fit_duels(len(place), duels, [duel.p_first for duel in ranking.duels])
            scores = dict(zip(ranking.completions, fit.scores.tolist(), strict=True))
        order = tuple(sorted(scores, key=lambda id_: (-scores[id_], id_)))
    return frozenset(order[: -(-len(order) // 2)])
