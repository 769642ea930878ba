"""The options for all pairs, selected or imported, and counts of what they leave out."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prefine.config.checking import listed
from prefine.config.sections import ItemEntry, PairConfig, RunConfig
from prefine.errors import ConfigError
from prefine.pairing.filters import TRUNCATED, refusal
from prefine.records import Completion, PreferencePair


@dataclass
class PairCounts:
    """Counts of what was left out while pairing, by reason, and of what is worth a note."""

    dropped: Counter[str] = field(default_factory=Counter)
    prompts_without: int = 0
    truncated: int = 0
    unknown_finish: int = 0
    unjudged: int = 0
    # Of a selector that could join prompts: how many pairs do; None for the others.
    across: int | None = None
    # Labelled answers that are trained on, by label.
    labels: Counter[bool] = field(default_factory=Counter)
    # Of selectors that say more: shares of completions by name, one for each prompt.
    shares: dict[str, list[float]] = field(default_factory=dict)

    def merge(self, other: "PairCounts") -> None:
        """Add the counts of other prompts."""
        self.dropped.update(other.dropped)
        self.prompts_without += other.prompts_without
        self.truncated += other.truncated
        self.unknown_finish += other.unknown_finish
        self.unjudged += other.unjudged
        self.labels.update(other.labels)
        if other.across is not None:
            self.across = (self.across or 0) + other.across
        for name, found in other.shares.items():
            self.shares.setdefault(name, []).extend(found)

    def add_shares(self, shares: Mapping[str, float]) -> None:
        """Note shares of a prompt's completions, by name."""
        for name, share in shares.items():
            self.shares.setdefault(name, []).append(share)

    def count_truncated(self, completions: Iterable[Completion]) -> None:
        """Count the completions that the limit has cut, and those that do not say it."""
        for completion in completions:
            self.truncated += completion.finish_reason == "length"
            self.unknown_finish += completion.finish_reason == "unknown"

    def notes(self) -> list[str]:
        """Lines for the manifest."""
        notes = []
        if self.prompts_without:
            notes.append(f"{self.prompts_without} prompts give nothing to train on")
        if self.unjudged:
            notes.append(
                f"{self.unjudged} completions left out: no judge could judge them, so they are "
                "neither chosen nor rejected"
            )
        if self.truncated:
            notes.append(f"{self.truncated} completions left out: {TRUNCATED}")
        if self.unknown_finish:
            notes.append(
                f"pair.drop_truncated: {self.unknown_finish} completions do not say whether they "
                f"were {TRUNCATED}, and stay"
            )
        if self.across == 0:
            notes.append(
                "no pair joins two prompts: raise pair.pairs_per_prompt, or let the selector take "
                "such pairs alone (joint: keep: across)"
            )
        for name, found in self.shares.items():
            notes.append(
                f"{name}: {math.fsum(found) / len(found):.1%} of the completions (mean of "
                f"{len(found)} prompts; lowest {min(found):.1%}, highest {max(found):.1%})"
            )
        return notes


def label_notes(labels: Mapping[bool, int], config: RunConfig) -> list[str]:
    """A line if all labelled answers have one label, which a loss of labels cannot learn from.

    Plain fine-tuning (a loss of any items) and a step source that answers by itself need no second
    label.
    """
    good, bad = labels.get(True, 0), labels.get(False, 0)
    if (good and bad) or not good + bad:
        return []
    # Here and not above: few runs have such labels, and losses load torch.
    from prefine.losses.facts import reads_of
    from prefine.stages.training_inputs import takes_answers
    from prefine.training.relations.choose import configured_losses, losses_of_kind

    losses = losses_of_kind(configured_losses(config.train), "labels")
    if takes_answers(config) or all(reads_of(loss, "any") == "any" for _, loss in losses):
        return []
    of_rankings = "pair.selector: {name: labelled, above: …}"
    where = "labels.above, of rows with grades" if config.labels is not None else of_rankings
    return [
        f"labels: {good:,} good and {bad:,} bad answers, so that nothing is told apart; choose "
        f"another threshold ({where}), or give answers of both kinds"
    ]


FEWEST_TO_HOLD_OUT = 320
"""Of fewer prompts, `held_out_prompts: auto` holds none out. Ours."""
_HELD_OUT_SHARE, _LEAST, _MOST = 0.05, 32, 256
_BUDGET_SHARE, _BUDGET_LEAST, _BUDGET_MOST, _BUDGET_LIMIT = 0.1, 128, 512, 0.2


def number_held_out(prompts: int, settings: PairConfig, *, for_budget: bool = False) -> int:
    """The number of prompts to hold out, of those that have pairs.

    Args:
        prompts: How many there are.
        settings: The section `pair`.
        for_budget: The weight of a budget is set on half of them (`regularizer_weight: auto`).

    Raises:
        ConfigError: Not one prompt would be left to train on.
    """
    wanted = settings.held_out_prompts
    if wanted == "auto" and for_budget:
        least = max(round(_BUDGET_SHARE * prompts), _BUDGET_LEAST)
        return min(least, _BUDGET_MOST, int(_BUDGET_LIMIT * prompts))
    if wanted == "auto":
        share = round(_HELD_OUT_SHARE * prompts)
        return 0 if prompts < FEWEST_TO_HOLD_OUT else min(max(share, _LEAST), _MOST)
    if prompts and wanted >= prompts:
        raise ConfigError(
            f"pair.held_out_prompts: {wanted} of {prompts} prompts leaves none to train on"
        )
    return wanted


def held_out_of_run(prompts: int, config: RunConfig) -> int:
    """The number of prompts that a run holds out, of those that have pairs.

    Raises:
        ConfigError: Not one prompt would be left to train on.
    """
    return number_held_out(prompts, config.pair, for_budget=holds_out_for_budget(config))


def holds_out_for_budget(config: RunConfig) -> bool:
    """Return True if the number of held-out prompts is ours to choose, for an automatic budget."""
    return config.pair.held_out_prompts == "auto" and config.train.regularizer_weight == "auto"


def held_out_inputs(config: RunConfig) -> dict[str, str]:
    """The input of stage `pair` beside its tables: without it, pairs made before go on."""
    return {"held_out": "for an automatic budget"} if holds_out_for_budget(config) else {}


def check_imported(settings: PairConfig, kinds: Sequence[ItemEntry]) -> list[str]:
    """Return notes on what of section `pair` is not used for items that are imported.

    Raises:
        ConfigError: An option needs the scores of a ranking or pairs, or the selector's own options
            are wrong.
    """
    starts = f"this configuration starts with {listed(kinds)}"
    if "pairs" not in kinds:
        of_any_items = PairConfig(
            selector=settings.selector,
            held_out_prompts=settings.held_out_prompts,
            fraction=settings.fraction,
            only_sources=settings.only_sources,
            seed=settings.seed,
        )
        for name, value in settings:
            if value != getattr(of_any_items, name):
                raise ConfigError(f"pair.{name}: is for pairs, and {starts}; leave it out")
    if settings.length_penalty:
        raise ConfigError(
            f"pair.length_penalty: corrects the scores of rankings, and {starts}; use "
            "pair.max_length_ratio"
        )
    if settings.selector == PairConfig().selector:
        return []
    settings.selector.resolve("selector", where="pair.selector", given=("seed",))
    return [f"pair.selector {settings.selector.name!r} is not used: {starts}"]


def allowed(
    pairs: Iterable[PreferencePair], options: PairConfig, dropped: Counter[str]
) -> Iterator[PreferencePair]:
    """The imported pairs that the options allow; the others are counted by reason."""
    taken: Counter[str] = Counter()
    limit = options.pairs_per_prompt
    for pair in pairs:
        reason = refusal(pair, options)
        if reason is None and limit is not None and taken[pair.prompt.id] >= limit:
            reason = "enough pairs of the prompt"
        if reason is None:
            taken[pair.prompt.id] += 1
            yield pair
        else:
            dropped[reason] += 1
