"""The road, step by step, on objects in memory; the same code that the stages call."""

import json
from collections.abc import Iterable, Mapping, Sequence
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
from prefine.calls.engine import CallEngine
from prefine.calls.memory import MemoryLog
from prefine.config import Component, Decoding, EvaluateConfig, PairConfig, RunConfig, TrainConfig
from prefine.errors import DataError, LimitError
from prefine.pairing.select import to_pair
from prefine.records import Completion, Message, PreferencePair, Prompt, Ranking
from prefine.stages.base import Progress, Silent, check_judge, chunks
from prefine.stages.contests import Answered, in_the_eyes_of, lengths
from prefine.stages.pair import bound_selector, write_pairs
from prefine.stages.rank import make_fields, rank_shard, strategy_maker
from prefine.stages.report_data import Evaluation
from prefine.stages.sampling import sample_shard
from prefine.store.folder import RunFolder

if TYPE_CHECKING:
    from prefine.training.figures import FinalFigures, StepRow

PromptLike = str | Sequence[Mapping[str, Any]] | Prompt
"""A text, messages, or a `Prompt`."""

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
    progress: Progress | None = None,
) -> list[Completion]:
    """M completions for every prompt, in the order of the prompts.

    Args:
        model: A hub id or folder, "playground", or a backend as in YAML (`{"name": "openai", …}`).
        prompts: Texts, messages or `Prompt`s.
        completions_per_prompt: M.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass.
        max_new_tokens: The longest completion [tokens].
        seed: Of the drawing.
        max_failed_fraction: Stop when a larger share of the completions fails; those that failed are missing.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The model cannot answer a prompt.
        LimitError: Too many completions failed.
    """
    decoding = validated(
        Decoding,
        {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed},
        where="sample",
    )
    shown = progress or Silent()
    sampler = sampler_of(model, where="model")
    asked = [prompt_of(prompt) for prompt in prompts]
    for prompt in asked:
        sampler.check_prompt(prompt, decoding, where="sample")
    engine = CallEngine(MemoryLog(), should_stop=lambda: shown.stopping)
    shown.start("sample", len(asked) * completions_per_prompt, "completions")
    drawn: list[Completion] = []
    for shard in chunks(asked, _SHARD):
        found = sample_shard(engine, sampler, shard, completions_per_prompt, decoding, group=2)
        drawn += [completion for prompt in shard for completion in found[prompt.id]]
        shown.advance(len(shard) * completions_per_prompt)
    engine.check_failures(len(asked) * completions_per_prompt, max_failed_fraction, where="sample")
    return drawn


def rank(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    *,
    judge: JudgeLike,
    strategy: Named = "iterative",
    seed: int = 0,
    max_calls: int | None = None,
    max_failed_fraction: float = 0.02,
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
        max_failed_fraction: Stop when a larger share of the judgments fails.
        progress: Where to say how far it is.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A completion belongs to no prompt, or the judge cannot work on these completions.
        LimitError: Too many judgments failed, or `max_calls` is reached.
    """
    shown = progress or Silent()
    _, asked = judge_of(judge)
    make_strategy = strategy_maker(component_of(strategy, where="strategy"), asked)
    groups = _grouped(prompts, completions)
    for prompt, answers in groups:
        check_judge(asked, prompt, answers)
    engine = CallEngine(MemoryLog(), max_calls=max_calls, should_stop=lambda: shown.stopping)
    name = component_of(strategy, where="strategy").name
    shown.start("rank", len(groups), "prompts")
    rankings: list[Ranking] = []
    for shard in chunks(groups, _SHARD):
        fields, _ = make_fields(shard, seed=seed)
        rankings += rank_shard(engine, asked, fields, make_strategy, name=name)
        shown.advance(len(shard))
    engine.check_failures(sum(ranking.calls for ranking in rankings), max_failed_fraction, where="rank")
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
    pairs: Iterable[PreferencePair],
    *,
    output_dir: str | Path,
    settings: TrainConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on preference pairs; called again with the same arguments it resumes, or returns what is there.

    Args:
        policy: A hub id or folder, or a backend with weights as in YAML.
        pairs: From `make_pairs` or `read_pairs`.
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
        pair=PairConfig(),
        train=validated(TrainConfig, settings or {}, where="settings"),
    )
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        write_pairs(folder, pairs)
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
    settings: EvaluateConfig | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The win rate of a model against a baseline, each answering every prompt once, judged in both orders.

    Args:
        model: The model in question.
        prompts: What to answer; better none that it was trained on.
        baseline: What it is compared with.
        judge: Who compares.
        temperature: 0 is greedy.
        max_new_tokens: The longest answer [tokens].
        settings: `bootstrap_samples`, `seed` and `max_failed_fraction` of the section `evaluate`.
        progress: Where to say how far it is.
    Returns: The contest with wins, ties and losses, and metrics with their intervals.

    Raises:
        ConfigError: A setting is wrong.
        DataError: A model or the judge cannot work on a prompt.
        LimitError: Too many answers or judgments failed.
    """
    chosen = validated(EvaluateConfig, settings or {}, where="settings")
    shown = progress or Silent()
    asked = [prompt_of(prompt) for prompt in prompts]
    name, eyes = judge_of(judge)
    engine = CallEngine(MemoryLog(), should_stop=lambda: shown.stopping)
    shown.start("evaluate", 2 * len(asked), "answers")
    sides: list[dict[str, Completion]] = []
    samplers = [sampler_of(baseline, where="baseline"), sampler_of(model, where="model")]
    for offset, sampler in enumerate(samplers):
        decoding = Decoding(temperature=temperature, max_new_tokens=max_new_tokens, seed=chosen.seed + offset)
        drawn: dict[str, Completion] = {}
        for shard in chunks(asked, _SHARD):
            for prompt in shard:
                sampler.check_prompt(prompt, decoding, where="evaluate")
            found = sample_shard(engine, sampler, shard, 1, decoding, group=1)
            drawn |= {id_: answers[0] for id_, answers in found.items() if answers}
            shown.advance(len(shard))
        sides.append(drawn)
    before, after = sides
    answered = [
        Answered(prompt, before[prompt.id], after[prompt.id])
        for prompt in asked
        if prompt.id in before and prompt.id in after
    ]
    engine.check_failures(2 * len(asked), chosen.max_failed_fraction, where="evaluate")
    if not answered:
        raise LimitError(f"evaluate: none of {len(asked)} prompts was answered by both models")
    seen = in_the_eyes_of(eyes, name, answered, engine, chosen)
    engine.check_failures(2 * (len(asked) + len(answered)), chosen.max_failed_fraction, where="evaluate")
    return Evaluation(
        policy=samplers[1].label,
        baseline=samplers[0].label,
        contests=(seen.contest,),
        constraints=(),
        metrics=(*seen.facts, *lengths(answered, chosen)),
    )


def _trained(folder: Path) -> Trained:
    from prefine.training.figures import FinalFigures, StepRow
    from prefine.training.loop import FINAL_NAME, LOG_NAME

    rows = (folder / LOG_NAME).read_text(encoding="utf-8").rstrip("\n").split("\n")
    final = json.loads((folder / FINAL_NAME).read_text(encoding="utf-8"))["final"]
    return Trained(folder / "model", tuple(map(StepRow.model_validate_json, rows)), FinalFigures.model_validate(final))


def prompt_of(prompt: PromptLike) -> Prompt:
    """A text or messages as a `Prompt`."""
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt.from_text(prompt)
    return Prompt.make(tuple(validated(Message, message, where="prompt") for message in prompt))


def _grouped(prompts: Iterable[PromptLike], completions: Iterable[Completion]) -> list[tuple[Prompt, list[Completion]]]:
    """Each prompt with its completions; joined by id."""
    asked = [prompt_of(prompt) for prompt in prompts]
    groups: dict[str, tuple[Prompt, list[Completion]]] = {prompt.id: (prompt, []) for prompt in asked}
    for completion in completions:
        if completion.prompt_id not in groups:
            raise DataError(f"completion {completion.id}: its prompt {completion.prompt_id} is not among those given")
        groups[completion.prompt_id][1].append(completion)
    return list(groups.values())
