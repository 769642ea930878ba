"""The road, step by step, on objects in memory; the same code that the stages call."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prefine.api.components import (
    JudgeLike,
    Model,
    Named,
    component_of,
    judge_of,
    model_component,
    sampler_of,
    validated,
)
from prefine.api.reading import PromptLike, pairs_of, prompts_of, tell
from prefine.calls.base import AnswerLog
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.config import Component, Decoding, EvaluateConfig, RunConfig, TrainConfig
from prefine.errors import DataError, LimitError
from prefine.models.base import Sampler
from prefine.pairing.select import to_pair
from prefine.records import Completion, PreferencePair, Prompt, Ranking
from prefine.stages.base import Progress, Silent, check_judge, check_model, chunks
from prefine.stages.contests import Answered, in_the_eyes_of, lengths
from prefine.stages.failures import Failures
from prefine.stages.pair import bound_selector, write_pairs
from prefine.stages.rank import make_fields, rank_shard, strategy_maker
from prefine.stages.report_data import Evaluation
from prefine.stages.sampling import sample_shard
from prefine.store.folder import RunFolder
from prefine.store.journal import Journal

if TYPE_CHECKING:
    from prefine.training.figures import FinalFigures, StepRow

_SHARD = 256


class Trained(NamedTuple):
    """A trained model: its folder, which transformers loads, a row per step, and the figures at the end."""

    path: Path
    steps: "tuple[StepRow, ...]"
    final: "FinalFigures"


def sample(
    model: Model,
    prompts: Iterable[PromptLike],
    *,
    completions_per_prompt: int = 8,
    temperature: float = 0.9,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Completion]:
    """M completions for every prompt, in the order of the prompts.

    Args:
        model: A hub id or folder, "playground", or a backend as in YAML (`{"name": "openai", …}`).
        prompts: Texts, messages, rows with a prompt, or `Prompt`s; repeated ones count once.
        completions_per_prompt: M.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass.
        max_new_tokens: The longest completion [tokens].
        seed: Of the drawing.
        max_failed_fraction: Stop when a larger share of the completions fails; those that failed are missing.
        journal: A file that keeps every answer: called again, nothing that was answered is asked for again.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The model cannot answer a prompt.
        BackendError: The model cannot be loaded, or its server will not answer.
        LimitError: Too many completions failed.
    """
    decoding = validated(
        Decoding,
        {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed},
        where="sample",
    )
    shown = progress or Silent()
    sampler = sampler_of(model, where="model")
    check_model(sampler)
    asked = prompts_of(prompts)
    for prompt in asked:
        sampler.check_prompt(prompt, decoding, where="sample")
    total = len(asked) * completions_per_prompt
    shown.start("sample", total, "completions")
    drawn: list[Completion] = []
    with _log(journal) as log:
        engine = CallEngine(
            log,
            most_failures=max_failed_fraction * total,
            should_stop=lambda: shown.stopping,
            on_answers=shown.advance,
        )
        for shard in chunks(asked, _SHARD):
            found = sample_shard(engine, sampler, shard, completions_per_prompt, decoding, group=2)
            drawn += [completion for prompt in shard for completion in found[prompt.id]]
        engine.check_failures(total, max_failed_fraction, where="sample")
    tell(sampler.notes)
    if engine.failures:
        tell([f"{sum(engine.failures.values())} of {total} completions failed and are missing"])
    return drawn


def rank(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    *,
    judge: JudgeLike,
    strategy: Named = "iterative",
    seed: int = 0,
    max_calls: int | None = None,
    max_cost: float | None = None,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Ranking]:
    """One ranking per prompt that has two different completions, in the order of the prompts.

    Args:
        prompts: What was answered.
        completions: Answers; each names its prompt by `prompt_id`.
        judge: As in YAML, or a function `(prompt, completion) -> float`, or an object that is a judge.
        strategy: As in YAML, such as "iterative" or `{"name": "round_robin", "order": "both"}`.
        seed: Of the order in which completions are met.
        max_calls: Stop before more judge calls than this.
        max_cost: Stop once the calls have cost this much, by the prices that were given for the judge's model.
        max_failed_fraction: Stop when a larger share of the judgments fails.
        journal: A file that keeps every answer: called again, nothing that was answered is asked for again.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A completion belongs to no prompt, or the judge cannot work on these completions.
        BackendError: The judge's model cannot be loaded, or its server will not answer.
        LimitError: Too many judgments failed, or a limit is reached.
    """
    shown = progress or Silent()
    _, asked = judge_of(judge)
    check_model(asked)
    chosen = component_of(strategy, where="strategy")
    make_strategy = strategy_maker(chosen, asked)
    groups = _grouped(prompts, completions)
    for prompt, answers in groups:
        check_judge(asked, prompt, answers)
    shown.start("rank", len(groups), "prompts")
    rankings: list[Ranking] = []
    failures = Failures()
    with _log(journal) as log:
        engine = CallEngine(log, max_calls=max_calls, max_cost=max_cost, should_stop=lambda: shown.stopping)
        for shard in chunks(groups, _SHARD):
            fields, skipped = make_fields(shard, seed=seed)
            rankings += rank_shard(engine, asked, fields, make_strategy, name=chosen.name, failures=failures)
            failures.check(max_failed_fraction, where="rank", journal=log)
            tell(f"{count} prompts have no ranking: {reason}" for reason, count in skipped.items())
            shown.advance(len(shard))
    tell([*failures.notes(), *asked.notes])
    return [ranking for ranking in rankings if ranking.champion is not None or ranking.order is not None]


def make_pairs(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    rankings: Iterable[Ranking],
    *,
    selector: Named = "best_vs_random",
    seed: int = 0,
) -> list[PreferencePair]:
    """The preference pairs that a selector takes from rankings; asks no judge.

    Args:
        prompts: What was answered.
        completions: What was ranked.
        rankings: From `rank`.
        selector: As in YAML.
        seed: Of selectors that draw.

    Raises:
        ConfigError: The selector needs what the strategy of the rankings does not guarantee.
        DataError: A ranking's prompt or completion is not among those given.
    """
    groups = {
        prompt.id: (prompt, {answer.id: answer for answer in answers})
        for prompt, answers in _grouped(prompts, completions)
    }
    chosen = component_of(selector, where="selector")
    pairs: list[PreferencePair] = []
    for ranking in rankings:
        select = bound_selector(chosen, Component(name=ranking.strategy), seed=seed)
        if ranking.prompt_id not in groups:
            raise DataError(f"ranking of prompt {ranking.prompt_id}: that prompt is not among those given")
        prompt, answers = groups[ranking.prompt_id]
        pairs += [to_pair(prompt, answers, ranking, choice) for choice in select(ranking)]
    return pairs


def train(
    policy: Model,
    pairs: Iterable[PreferencePair | Mapping[str, Any]],
    *,
    output_dir: str | Path,
    settings: TrainConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on preference pairs; called again with the same arguments it resumes, or returns what is there.

    Args:
        policy: A hub id or folder, or a backend with weights as in YAML.
        pairs: From `make_pairs` or `read_pairs`, or rows of a known layout such as a `datasets.Dataset`.
        output_dir: Becomes a run folder: pairs, log, checkpoints, and the model in `model/`.
        settings: The section `train` of a configuration: loss, regularizer, adapter, learning_rate, ….
        progress: Where to say how far it is.

    Raises:
        ConfigError: A setting is wrong, or the folder holds the run of another configuration.
        DataError: No pair can be trained on.
        NumericsError: A loss or gradient is not finite.
        Interrupted: The user asked to stop; a checkpoint was saved.
    """
    from prefine.stages import train as stage

    config = RunConfig(
        run_dir=Path(output_dir),
        policy=model_component(policy, where="policy"),
        pairs=Component(name="given"),
        train=validated(TrainConfig, settings or {}, where="settings"),
    )
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        write_pairs(folder, pairs_of(pairs))
        stage.run(config, folder, progress or Silent())
        return _trained(folder.path)


def evaluate(
    model: Model,
    prompts: Iterable[PromptLike],
    *,
    baseline: Model,
    judge: JudgeLike,
    temperature: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 0,
    bootstrap_samples: int = 2000,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The win rate of a model against a baseline, each answering every prompt once, judged in both orders.

    Args:
        model: The model in question; what `train` returned will do.
        prompts: What to answer; better none that it was trained on. Repeated ones count once.
        baseline: What it is compared with.
        judge: Who compares.
        temperature: 0 is greedy.
        max_new_tokens: The longest answer [tokens].
        seed: Of the drawing and of the bootstrap; the two models draw from different streams.
        bootstrap_samples: For the intervals.
        max_failed_fraction: Stop when a larger share of the answers, or of the judgments, fails.
        journal: A file that keeps every answer: called again, nothing that was answered is asked for again.
        progress: Where to say how far it is.
    Returns: The contest with wins, ties and losses, and metrics with their intervals.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A model or the judge cannot work on a prompt.
        BackendError: A model cannot be loaded, or a server will not answer.
        LimitError: Too many answers or judgments failed.
    """
    given = {"seed": seed, "bootstrap_samples": bootstrap_samples, "max_failed_fraction": max_failed_fraction}
    settings = validated(EvaluateConfig, given, where="evaluate")
    shown = progress or Silent()
    asked = prompts_of(prompts)
    name, eyes = judge_of(judge)
    samplers = [sampler_of(baseline, where="baseline"), sampler_of(model, where="model")]
    for backend in (eyes, *samplers):
        check_model(backend)
    shown.start("evaluate", 2 * len(asked), "answers")
    with _log(journal) as log:
        engine = CallEngine(log, should_stop=lambda: shown.stopping)
        before, after = (
            _answers(
                engine,
                sampler,
                asked,
                validated(
                    Decoding,
                    {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed + offset},
                    where="evaluate",
                ),
                shown,
            )
            for offset, sampler in enumerate(samplers)
        )
        engine.check_failures(2 * len(asked), max_failed_fraction, where="evaluate")
        answered = [
            Answered(prompt, before[prompt.id], after[prompt.id])
            for prompt in asked
            if prompt.id in before and prompt.id in after
        ]
        if not answered:
            raise LimitError(f"evaluate: none of {len(asked)} prompts was answered by both models")
        seen = in_the_eyes_of(eyes, name, answered, engine, settings)
    tell([*samplers[0].notes, *samplers[1].notes, *eyes.notes, *seen.failures.notes()])
    return Evaluation(
        policy=samplers[1].label,
        baseline=samplers[0].label,
        contests=(seen.contest,),
        constraints=(),
        metrics=(*seen.facts, *lengths(answered, settings)),
    )


def _answers(
    engine: CallEngine, sampler: Sampler, asked: list[Prompt], decoding: Decoding, shown: Progress
) -> dict[str, Completion]:
    """One answer to each prompt, by prompt id."""
    drawn: dict[str, Completion] = {}
    for prompt in asked:
        sampler.check_prompt(prompt, decoding, where="evaluate")
    for shard in chunks(asked, _SHARD):
        found = sample_shard(engine, sampler, shard, 1, decoding, group=1)
        drawn |= {id_: answers[0] for id_, answers in found.items() if answers}
        shown.advance(len(shard))
    return drawn


@contextmanager
def _log(journal: str | Path | None) -> Iterator[AnswerLog]:
    """Where answers are kept: a file, or this process."""
    if journal is None:
        yield MemoryLog()
        return
    kept = Journal(Path(journal))
    try:
        yield kept
    finally:
        kept.close()


def _trained(folder: Path) -> Trained:
    from prefine.training.figures import FinalFigures, StepRow
    from prefine.training.loop import FINAL_NAME, LOG_NAME

    rows = (folder / LOG_NAME).read_text(encoding="utf-8").rstrip("\n").split("\n")
    final = json.loads((folder / FINAL_NAME).read_text(encoding="utf-8"))["final"]
    return Trained(folder / "model", tuple(map(StepRow.model_validate_json, rows)), FinalFigures.model_validate(final))


def _grouped(prompts: Iterable[PromptLike], completions: Iterable[Completion]) -> list[tuple[Prompt, list[Completion]]]:
    """Each prompt with its completions; joined by id."""
    groups: dict[str, tuple[Prompt, list[Completion]]] = {p.id: (p, []) for p in prompts_of(prompts)}
    for completion in completions:
        if not isinstance(completion, Completion):
            raise DataError(
                f"completions: expected Completions, got a {type(completion).__name__}; take them from sample() or "
                "read_completions()"
            )
        if completion.prompt_id not in groups:
            raise DataError(f"completion {completion.id}: its prompt {completion.prompt_id} is not among those given")
        groups[completion.prompt_id][1].append(completion)
    return list(groups.values())
