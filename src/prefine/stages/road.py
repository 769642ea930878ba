"""The road through the stages: which of them a configuration needs, what it will cost, and walking it."""

import importlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prefine.config import Component, RunConfig, components
from prefine.judges.base import ComputedJudge
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


def check(config: RunConfig) -> None:
    """Resolve every component and look at every input that is on disk, before anything is spent.

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
    for count in _inputs(config):
        del count


def _inputs(config: RunConfig) -> Iterator[tuple[str, int]]:
    """Each input's name and number of rows; every row is checked on the way, also by the judge that will see it."""
    judge = None if config.rank is None else config.rank.judge
    if config.prompts is not None:
        yield "prompts", _count(_unanswered(config.prompts, "prompts"), judge, "rank.judge")
    if config.completions is not None:
        groups = entries.completions(config.completions.resolve("source", where="completions")())
        yield "completions", _count(groups, judge, "rank.judge")
    if config.pairs is not None:
        yield "pairs", sum(1 for _ in entries.pairs(config.pairs.resolve("source", where="pairs")()))
    if config.evaluate.prompts is not None:
        prompts = _unanswered(config.evaluate.prompts, "evaluate.prompts")
        yield "evaluation prompts", _count(prompts, config.evaluate.judge or judge, "evaluate.judge")


def _unanswered(source: Component, where: str) -> Iterator[tuple[Prompt, list[Completion]]]:
    """Prompts with a stand-in for the completions that are yet to be sampled, which will have no metadata."""
    for prompt in entries.prompts(source.resolve("source", where=where)()):
        message = Message(role="assistant", content="")
        yield prompt, [Completion(id="unsampled", prompt_id=prompt.id, sample_index=0, message=message)]


def _count(groups: Iterable[tuple[Prompt, list[Completion]]], judge: Component | None, where: str) -> int:
    made: ComputedJudge | None = None if judge is None else judge.resolve("judge", where=where)()
    number = 0
    for prompt, completions in groups:
        number += 1
        if made is not None:
            check_judge(made, prompt, completions)
    return number


def plan(config: RunConfig) -> Plan:
    """What the run would do, counted from the inputs; nothing is sampled, judged or trained."""
    check(config)
    counts = dict(_inputs(config))
    lines = [(name, f"{count:,}") for name, count in counts.items()]
    rows = counts.get("prompts", counts.get("completions", 0))
    if config.prompts is not None and config.sample is not None:
        tokens = rows * config.sample.completions_per_prompt * config.sample.max_new_tokens
        lines.append(("completions to sample", f"{rows * config.sample.completions_per_prompt:,}"))
        lines.append(("tokens to sample, at most", f"{tokens:,}"))
    if config.rank is not None and config.pairs is None:
        lines.append(("judge calls, at most", f"{_most_calls(config):,}"))
    if config.evaluate.prompts is not None:
        lines.append(("evaluation answers to sample", f"{2 * counts['evaluation prompts']:,}"))
        lines.append(("evaluation judge calls", f"{2 * counts['evaluation prompts']:,}"))
    pairs = counts.get("pairs", rows if config.pair.selector.name.startswith("best_vs") else None)
    if pairs is not None:
        steps = -(-(pairs - config.pair.held_out_prompts) // config.train.pairs_per_step) * config.train.epochs
        lines.append(("training steps, at most", f"{min(steps, config.train.max_steps or steps):,}"))
    own = [component.name for _, _, component in components(config) if ":" in component.name]
    return Plan(tuple(lines), tuple(own))


def _most_calls(config: RunConfig) -> int:
    from prefine.ranking.base import facts_of

    assert config.rank is not None, "checked by the caller"
    strategy = config.rank.strategy
    facts = facts_of(strategy.lookup("strategy", where="rank.strategy"))
    if config.prompts is not None and config.sample is not None:
        number = sum(1 for _ in entries.prompts(config.prompts.resolve("source", where="prompts")()))
        return number * facts.max_asks(config.sample.completions_per_prompt, **strategy.options)
    assert config.completions is not None, "checked by RunConfig"
    groups = entries.completions(config.completions.resolve("source", where="completions")())
    return sum(facts.max_asks(len(found), **strategy.options) for _, found in groups if len(found) > 1)
