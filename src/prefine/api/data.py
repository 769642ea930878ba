"""From prompts to preference pairs, on objects in memory; the same code that the stages call."""

from collections.abc import Iterable
from pathlib import Path

from prefine.api.components import JudgeLike, Model, Named, component_of, judge_of, sampler_of, validated
from prefine.api.journals import answer_log
from prefine.api.reading import PromptLike, prompts_of, tell
from prefine.calls.engine import CallEngine
from prefine.config import Component, Decoding
from prefine.errors import DataError
from prefine.pairing.select import to_pair
from prefine.records import Completion, PreferencePair, Prompt, Ranking
from prefine.stages.base import Progress, Silent, check_judge, check_model, chunks
from prefine.stages.failures import Failures
from prefine.stages.pair import bound_selector
from prefine.stages.rank import make_fields, rank_shard, strategy_maker
from prefine.stages.sampling import sample_shard
from prefine.stages.slots import Slots

_SHARD = 256


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
    with answer_log(journal) as log:
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
    failures, slots = Failures(), Slots()
    with answer_log(journal) as log:
        engine = CallEngine(log, max_calls=max_calls, max_cost=max_cost, should_stop=lambda: shown.stopping)
        for shard in chunks(groups, _SHARD):
            fields, skipped = make_fields(shard, seed=seed)
            found, judgments = rank_shard(engine, asked, fields, make_strategy, name=chosen.name)
            rankings += found
            failures.count(judgments)
            slots.count(judgments)
            failures.check(max_failed_fraction, where="rank", journal=log)
            tell(f"{count} prompts have no ranking: {reason}" for reason, count in skipped.items())
            shown.advance(len(shard))
    tell([*failures.notes(), *slots.notes(), *asked.notes])
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
