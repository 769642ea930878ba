"""The road through the stages: which of them a configuration needs, what it will cost, and walking it."""

import importlib
from collections.abc import Iterator
from typing import NamedTuple

from prefine.config import Component, Decoding, RunConfig, components
from prefine.errors import ConfigError
from prefine.judges.base import ComputedJudge
from prefine.models.base import Sampler
from prefine.records import Completion, Manifest, Message, Prompt
from prefine.stages.base import Progress, check_judge
from prefine.store import entries
from prefine.store.folder import RunFolder

STAGES = ("sample", "rank", "pair", "train", "evaluate", "report")


class Plan(NamedTuple):
    """What a run would do, as lines of (what, how much)."""

    lines: tuple[tuple[str, str], ...]
    imports: tuple[str, ...]


def stages_of(config: RunConfig) -> tuple[str, ...]:
    """The stages that a configuration walks through."""
    skipped = {"sample", "rank"} if config.pairs is not None else set()
    if config.evaluate.prompts is None and config.pair.held_out_prompts == 0:
        skipped.add("evaluate")
    return tuple(stage for stage in STAGES if stage not in skipped)


def run_stage(stage: str, config: RunConfig, folder: RunFolder, progress: Progress) -> Manifest:
    """Run one stage; its module is imported now and not before."""
    module = importlib.import_module(f"prefine.stages.{stage}")
    manifest: Manifest = module.run(config, folder, progress)
    return manifest


def check(config: RunConfig) -> dict[str, int]:
    """Resolve every component and look at every input that is on disk, before anything is spent.

    Returns: The number of rows of each input, by its name.

    Raises:
        ConfigError: A name or option is wrong, or two components do not go together.
        DataError: An input file has a bad row.
        BackendError: A model folder cannot be used.
    """
    for where, kind, component in components(config):
        given = {"strategy": ("first_slot_bias",), "selector": ("seed",)}.get(kind, ())
        made = component.resolve(kind, where=where, given=given)
        if kind == "backend" and hasattr(backend := made(), "check"):
            backend.check()
        elif kind == "judge":
            made()
    if config.pairs is None:
        from prefine.stages.pair import bound_selector

        bound_selector(config)
    from prefine.stages.training_inputs import trainable

    trainable(config.policy, where="policy")
    if isinstance(config.train.reference, Component):
        trainable(config.train.reference, where="train.reference")
    counts = dict(_inputs(config))
    prompts = next(counts[name] for name in ("prompts", "completions", "prompts of pairs") if name in counts)
    if config.pair.held_out_prompts >= prompts:
        raise ConfigError(
            f"pair.held_out_prompts: {config.pair.held_out_prompts} of {prompts} prompts leaves none to train on"
        )
    return counts


Groups = Iterator[tuple[Prompt, list[Completion]]]


def _inputs(config: RunConfig) -> Iterator[tuple[str, int]]:
    """Each input's name and number of rows; every row is checked on the way, also by those who will work on it."""
    judge = None if config.rank is None else config.rank.judge
    if config.prompts is not None:
        assert config.sample is not None, "checked by RunConfig"
        groups = _judgeable(_unanswered(config.prompts, "prompts"), judge, "rank.judge")
        yield "prompts", _count(_answerable(groups, config, config.sample, "sample"))
    if config.completions is not None:
        groups = entries.completions(config.completions.resolve("source", where="completions")())
        yield "completions", _count(_judgeable(groups, judge, "rank.judge"))
    if config.pairs is not None:
        ids = [pair.prompt.id for pair in entries.pairs(config.pairs.resolve("source", where="pairs")())]
        yield "pairs", len(ids)
        yield "prompts of pairs", len(set(ids))
    if config.evaluate.prompts is not None:
        groups = _unanswered(config.evaluate.prompts, "evaluate.prompts")
        groups = _judgeable(groups, config.evaluate.judge or judge, "evaluate.judge")
        decoding = config.evaluate.decoding or config.sample or Decoding()
        yield "evaluation prompts", _count(_answerable(groups, config, decoding, "evaluate.decoding"))


def _unanswered(source: Component, where: str) -> Groups:
    """Prompts with a stand-in for the completions that are yet to be sampled, which will have no metadata."""
    for prompt in entries.prompts(source.resolve("source", where=where)()):
        message = Message(role="assistant", content="")
        yield prompt, [Completion(id="unsampled", prompt_id=prompt.id, sample_index=0, message=message)]


def _judgeable(groups: Groups, judge: Component | None, where: str) -> Groups:
    """The same, each checked by the judge."""
    made: ComputedJudge | None = None if judge is None else judge.resolve("judge", where=where)()
    for prompt, completions in groups:
        if made is not None:
            check_judge(made, prompt, completions)
        yield prompt, completions


def _answerable(groups: Groups, config: RunConfig, decoding: Decoding, where: str) -> Groups:
    """The same, each checked by the policy, whose tokenizer and length the trained model will have."""
    policy: Sampler = config.policy.resolve("backend", where="policy")()
    for prompt, completions in groups:
        policy.check_prompt(prompt, decoding, where=where)
        yield prompt, completions


def _count(groups: Groups) -> int:
    return sum(1 for _ in groups)


def plan(config: RunConfig) -> Plan:
    """What the run would do, counted from the inputs; nothing is sampled, judged or trained."""
    counts = check(config)
    lines = [(name, f"{count:,}") for name, count in counts.items()]
    rows = counts.get("prompts", counts.get("completions", 0))
    if config.prompts is not None and config.sample is not None:
        tokens = rows * config.sample.completions_per_prompt * config.sample.max_new_tokens
        lines.append(("completions to sample", f"{rows * config.sample.completions_per_prompt:,}"))
        lines.append(("tokens to sample, at most", f"{tokens:,}"))
    if config.rank is not None and config.pairs is None:
        lines.append(("judge calls, at most", f"{_most_calls(config, rows):,}"))
    if config.evaluate.prompts is not None:
        lines.append(("evaluation answers to sample", f"{2 * counts['evaluation prompts']:,}"))
        lines.append(("evaluation judge calls", f"{2 * counts['evaluation prompts']:,}"))
    pairs = counts.get("pairs", rows if config.pair.selector.name.startswith("best_vs") else None)
    if pairs is not None:
        steps = -(-(pairs - config.pair.held_out_prompts) // config.train.pairs_per_step) * config.train.epochs
        lines.append(("training steps, at most", f"{min(steps, config.train.max_steps or steps):,}"))
    own = [component.name for _, _, component in components(config) if ":" in component.name]
    return Plan(tuple(lines), tuple(own))


def _most_calls(config: RunConfig, rows: int) -> int:
    from prefine.ranking.base import facts_of

    assert config.rank is not None, "checked by the caller"
    strategy = config.rank.strategy
    facts = facts_of(strategy.lookup("strategy", where="rank.strategy"))
    if config.prompts is not None and config.sample is not None:
        return rows * facts.max_asks(config.sample.completions_per_prompt, **strategy.options)
    assert config.completions is not None, "checked by RunConfig"
    groups = entries.completions(config.completions.resolve("source", where="completions")())
    return sum(facts.max_asks(len(found), **strategy.options) for _, found in groups if len(found) > 1)
