"""From prompts to preference pairs, on objects in memory; the same code that the stages call."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefine.api.arguments import explained
from prefine.api.components import (
    JudgeLike,
    Model,
    Named,
    answer_log,
    component_of,
    judge_of,
    sampler_of,
    validated,
)
from prefine.api.frames import Records
from prefine.api.progress import followed
from prefine.api.reading import PromptLike, prompts_of, warn
from prefine.calls.engine import CallEngine
from prefine.config.base import Component
from prefine.config.sections import Decoding, ItemEntry, PairConfig
from prefine.errors import ConfigError, DataError
from prefine.models.capabilities import check_model
from prefine.records import (
    Completion,
    LabelledCompletion,
    PreferenceList,
    PreferencePair,
    Prompt,
    Ranking,
)
from prefine.run.rows import Groups
from prefine.stages.joining import RankedPrompt
from prefine.stages.pair_options import PairCounts
from prefine.stages.ranker import Ranked, Ranker
from prefine.stages.selection import BoundSelector
from prefine.stages.shards import SHARD, in_parts, sample_shard
from prefine.stages.stage_run import Progress, chunks


@explained
def sample(
    model: Model,
    prompts: Iterable[PromptLike],
    *,
    completions_per_prompt: int = 8,
    temperature: float = 0.9,
    top_p: float = 1.0,
    top_k: int | None = None,
    max_new_tokens: int = 512,
    seed: int = 0,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | bool = True,
) -> Records[Completion]:
    """Sample M completions for every prompt, in the order of the prompts.

    Args:
        model: A hub id or folder, "playground", or a backend as in YAML (`{"name": "openai", …}`).
        prompts: Texts, messages, rows with a prompt, or `Prompt`s; repeated ones count once.
        completions_per_prompt: M.
        temperature: 0 is greedy.
        top_p: Keep the most likely tokens up to this mass.
        top_k: Keep so many tokens, the likeliest, at each step; None keeps all.
        max_new_tokens: The longest completion [tokens].
        seed: For drawing.
        max_failed_fraction: Stop when a larger share of the completions fails; those that failed
            are missing.
        journal: A file that keeps every answer: called again, nothing that was answered is asked
            for again.
        progress: False shows no progress; an object receives it instead.

    Raises:
        ConfigError: A setting is wrong.
        DataError: The model cannot answer a prompt.
        BackendError: The model cannot be loaded, or its server does not answer.
        LimitError: Too many completions failed.
    """
    settings = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    decoding = validated(Decoding, settings, where="sample")
    if type(completions_per_prompt) is not int or completions_per_prompt < 1:
        raise ConfigError(
            f"completions_per_prompt {completions_per_prompt!r}: must be a whole number from 1"
        )
    sampler = sampler_of(model, where="model")
    check_model(sampler)
    asked = prompts_of(prompts)
    for prompt in asked:
        sampler.check_prompt(prompt, decoding, where="sample")
    total = len(asked) * completions_per_prompt
    drawn: Records[Completion] = Records()
    with answer_log(journal) as log, followed(progress) as shown:
        shown.start("sample", total, "completions")
        engine = CallEngine(
            log,
            most_failures=max_failed_fraction * total,
            should_stop=lambda: shown.stopping,
            on_answers=shown.advance,
        )

        async def draw(shard: list[Prompt]) -> Groups:
            return await sample_shard(
                engine.scope(), sampler, shard, completions_per_prompt, decoding
            )

        def keep(shard: list[Prompt], groups: Groups) -> None:
            drawn.extend(completion for _, completions in groups for completion in completions)

        engine.run(in_parts(chunks(asked, SHARD), draw, keep, concurrency=sampler.concurrency))
        engine.check_failures(total, max_failed_fraction, where="sample")
    notes = list(sampler.notes)
    if engine.failures:
        notes.append(f"{engine.failures.total()} of {total} completions failed and are missing")
    warn(notes)
    return drawn


@explained
def rank(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    *,
    judge: JudgeLike,
    strategy: Named = "iterative",
    scorer: JudgeLike | None = None,
    seed: int = 0,
    max_calls: int | None = None,
    max_cost: float | None = None,
    max_failed_fraction: float = 0.02,
    journal: str | Path | None = None,
    progress: Progress | bool = True,
) -> Records[Ranking]:
    """Rank the completions of every prompt that has two different ones.

    Args:
        prompts: The prompts that were answered.
        completions: Their answers; each names its prompt by `prompt_id`.
        judge: As in YAML, or a function `(prompt, completion) -> float`, or an object that is a
            judge.
        strategy: As in YAML, such as "iterative" or `{"name": "round_robin", "order": "both"}`, or
            a generator function with `prefine.ranking.strategy`.
        scorer: Gives the ratings that a strategy asks for: a function, or a reward model as in
            YAML; None is the judge.
        seed: Decides in which order a strategy meets the completions.
        max_calls: Stop before more judge calls than this.
        max_cost: Stop once the calls have cost this much, by the prices that were given for the
            judge's model.
        max_failed_fraction: Stop when a larger share of the judgments and ratings fails.
        journal: A file that keeps every answer: called again, nothing that was answered is asked
            for again.
        progress: False shows no progress; an object receives it instead.

    Raises:
        ConfigError: A setting is wrong, or the strategy asks for ratings that no judge can give.
        DataError: A completion belongs to no prompt, or the judge cannot work on these completions.
        BackendError: The judge's model cannot be loaded, or its server will not answer.
        LimitError: Too many judgments failed, or a limit is reached.
    """
    _, comparing = judge_of(judge)
    scoring = None if scorer is None else judge_of(scorer, where="scorer")[1]
    chosen = component_of("strategy", strategy, where="strategy")
    ranker = Ranker(chosen, comparing, scoring, seed=seed, section="")
    groups = _grouped(prompts, completions)
    ranker.check_models()
    ranker.check(groups)
    rankings: Records[Ranking] = Records()
    try:
        with answer_log(journal) as log, followed(progress) as shown:
            shown.start("rank", len(groups), "prompts")
            engine = CallEngine(
                log, max_calls=max_calls, max_cost=max_cost, should_stop=lambda: shown.stopping
            )

            async def work(candidates: Groups) -> list[Ranked]:
                return await ranker.rank(engine.scope(), candidates)

            def keep(candidates: Groups, found: list[Ranked]) -> None:
                rankings.extend(one.ranking for one in found if one.ranking is not None)
                ranker.counts.check(max_failed_fraction, where="rank", journal=log)
                shown.advance(len(candidates))

            shards = (ranker.candidates(shard) for shard in chunks(groups, SHARD))
            engine.run(in_parts(shards, work, keep, concurrency=ranker.concurrency))
    finally:
        dropped = ranker.dropped.items()
        warn(f"{count} prompts have no ranking: {reason}" for reason, count in dropped)
    warn(ranker.notes())
    return rankings


@explained
def make_pairs(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    rankings: Iterable[Ranking],
    *,
    selector: Named = "best_vs_random",
    min_gap: float | None = None,
    min_p_chosen: float | None = None,
    max_length_ratio: float | None = None,
    length_penalty: float = 0.0,
    drop_truncated: bool = False,
    pairs_per_prompt: int | None = None,
    seed: int = 0,
) -> Records[PreferencePair]:
    """Select preference pairs from rankings; asks no judge.

    Args:
        prompts: The prompts that were answered.
        completions: The completions that were ranked.
        rankings: From `rank`.
        selector: As in YAML, or a function with `prefine.pairing.protocol.selector`.
        min_gap: The gap [scores] that a pair must exceed.
        min_p_chosen: The P(chosen is better) that a pair must at least have.
        max_length_ratio: How many times as long as the shorter answer the longer one may be.
        length_penalty: Subtracted from the scores for every character, before anything is selected.
        drop_truncated: Leave out completions that the generation limit has cut.
        pairs_per_prompt: Take so many; None is the selector's own number.
        seed: For selectors that draw.

    Raises:
        ConfigError: The selector or an option needs what the strategy of the rankings does not
            guarantee.
        DataError: A ranking's prompt or completion is not among those given.
    """
    bound, groups = _bound_to(
        (prompts, completions, rankings),
        selector=selector,
        min_gap=min_gap,
        min_p_chosen=min_p_chosen,
        max_length_ratio=max_length_ratio,
        length_penalty=length_penalty,
        drop_truncated=drop_truncated,
        pairs_per_prompt=pairs_per_prompt,
        seed=seed,
    )
    _check_makes(bound, "pairs")
    counts = PairCounts()
    pairs = Records(bound.pairs(groups, frozenset(), counts))
    warn(counts.notes())
    return pairs


@explained
def make_lists(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    rankings: Iterable[Ranking],
    *,
    selector: Named = "lists",
    min_gap: float | None = None,
    max_length_ratio: float | None = None,
    length_penalty: float = 0.0,
    drop_truncated: bool = False,
    seed: int = 0,
) -> Records[PreferenceList]:
    """Select preference lists from rankings, for list losses; asks no judge.

    Args:
        prompts: The prompts that were answered.
        completions: The completions that were ranked.
        rankings: From `rank`.
        selector: As in YAML, or a function with `prefine.pairing.protocol.selector`.
        min_gap: The gap [scores] by which each completion of a list must be below the one before
            it.
        max_length_ratio: How many times as long, or as short, as the best answer another one may
            be.
        length_penalty: Subtracted from the scores for every character, before anything is selected.
        drop_truncated: Leave out completions that the generation limit has cut.
        seed: For selectors that draw.

    Raises:
        ConfigError: The selector or an option needs what the strategy of the rankings does not
            guarantee.
        DataError: A ranking's prompt or completion is not among those given.
    """
    bound, groups = _bound_to(
        (prompts, completions, rankings),
        selector=selector,
        min_gap=min_gap,
        max_length_ratio=max_length_ratio,
        length_penalty=length_penalty,
        drop_truncated=drop_truncated,
        seed=seed,
    )
    _check_makes(bound, "lists")
    counts = PairCounts()
    lists = Records(bound.lists(groups, counts))
    warn(counts.notes())
    return lists


@explained
def make_labels(
    prompts: Iterable[PromptLike],
    completions: Iterable[Completion],
    rankings: Iterable[Ranking],
    *,
    selector: Named = "labelled",
    length_penalty: float = 0.0,
    drop_truncated: bool = False,
    seed: int = 0,
) -> Records[LabelledCompletion]:
    """Label single answers as good or bad from rankings, for losses of labels; asks no judge.

    Args:
        prompts: The prompts that were answered.
        completions: The completions that were ranked.
        rankings: From `rank`.
        selector: As in YAML, such as `{"name": "labelled", "above": 0.5}`, or a function with
            `prefine.pairing.protocol.selector`.
        length_penalty: Subtracted from the scores for every character, before anything is selected.
        drop_truncated: Leave out completions that the generation limit has cut.
        seed: For selectors that draw.

    Raises:
        ConfigError: The selector or an option needs what the strategy of the rankings does not
            guarantee.
        DataError: A ranking's prompt or completion is not among those given.
    """
    bound, groups = _bound_to(
        (prompts, completions, rankings),
        selector=selector,
        length_penalty=length_penalty,
        drop_truncated=drop_truncated,
        seed=seed,
    )
    _check_makes(bound, "labels")
    counts = PairCounts()
    labels = Records(bound.labels(groups, counts))
    warn(counts.notes())
    return labels


def _check_makes(bound: BoundSelector, wanted: ItemEntry) -> None:
    if bound.makes != wanted:
        instead = {
            "pairs": "pairs; call make_pairs",
            "lists": "lists; call make_lists",
            "labels": "labelled answers; call make_labels",
        }[bound.makes]
        raise ConfigError(f"selector.name: {bound.name!r} makes {instead}")


def _bound_to(
    inputs: tuple[Iterable[PromptLike], Iterable[Completion], Iterable[Ranking]],
    *,
    selector: Named,
    **options: Any,
) -> tuple[BoundSelector, list[RankedPrompt]]:
    """The selector, checked against the rankings' strategies; and each ranking with its prompt."""
    prompts, completions, rankings = inputs
    chosen = component_of("selector", selector, where="selector")
    groups = {
        prompt.id: (prompt, {answer.id: answer for answer in answers})
        for prompt, answers in _grouped(prompts, completions)
    }
    ranked = []
    for ranking in rankings:
        if ranking.prompt_id not in groups:
            raise DataError(
                f"ranking of prompt {ranking.prompt_id}: that prompt is not among those given"
            )
        ranked.append(RankedPrompt(*groups[ranking.prompt_id], ranking))
    settings = validated(PairConfig, {"selector": chosen, **options}, where="pair")
    bound = BoundSelector(settings, None)
    if bound.facts.standing != "ranking":
        raise ConfigError(
            f"selector.name: {bound.name!r} reads no ranking but the prompts' reference answers; "
            "name it in a configuration, pair.selector"
        )
    for strategy in sorted({one.ranking.strategy for one in ranked}):
        bound = BoundSelector(settings, Component(name=strategy))
    return bound, ranked


def _grouped(prompts: Iterable[PromptLike], completions: Iterable[Completion]) -> Groups:
    """Each prompt with its completions, joined by id."""
    groups: dict[str, tuple[Prompt, list[Completion]]] = {
        prompt.id: (prompt, []) for prompt in prompts_of(prompts)
    }
    for completion in completions:
        if not isinstance(completion, Completion):
            raise DataError(
                f"completions: expected Completions, got a {type(completion).__name__}; take them "
                "from sample() or read_completions()"
            )
        if completion.prompt_id not in groups:
            raise DataError(
                f"completion {completion.id}: its prompt {completion.prompt_id} is not among "
                "those given"
            )
        groups[completion.prompt_id][1].append(completion)
    return list(groups.values())
