"""Two models' answers to the same prompts: sampled, judged in both orders, and measured."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from prefine.calls.engine import CallEngine, top_reasons
from prefine.config.sections import Decoding, EvaluateConfig
from prefine.errors import LimitError
from prefine.judging.counts import JudgeCounts
from prefine.judging.protocol import Judge, Matchup
from prefine.metrics.judges.verdicts import first_slot_rate, swap_consistency
from prefine.metrics.protocol import AnswerPair
from prefine.metrics.statistics.intervals import mean_value, percentage
from prefine.metrics.statistics.paired import paired_change
from prefine.metrics.texts.screens import identical_outputs
from prefine.metrics.win_rates.win_rates import both_order_wins, win_rate
from prefine.models.capabilities import provided
from prefine.models.protocol import Releases, Samples
from prefine.records import Completion, Judgment, MetricValue, Prompt
from prefine.report.data import HeadToHead
from prefine.run.rows import Groups
from prefine.stages.evaluation_jobs import BothOrders, drawings
from prefine.stages.shards import SHARD, in_parts, sample_shard
from prefine.stages.stage_run import Progress, check_judge, chunks


class JudgeResult(NamedTuple):
    """The win rate according to a judge, metrics of the judge itself, and notes for the user.

    `p_after` has each prompt's P(after is better), None without a verdict in both orders;
    `judgments` are those of both orders, prompt by prompt.
    """

    p_after: list[float | None]
    head_to_head: HeadToHead
    metrics: list[MetricValue]
    notes: list[str]
    judgments: list[Judgment]


def answer_both(
    prompts: list[Prompt],
    samplers: Sequence[Samples],
    decoding: Decoding,
    settings: EvaluateConfig,
    engine: CallEngine,
    progress: Progress,
    draw: Callable[[int], dict[str, Completion]] | None = None,
) -> list[AnswerPair]:
    """Sample one answer of each model to each prompt, with equal settings and different seeds.

    Args:
        prompts: What to answer.
        samplers: The baseline and the trained model.
        decoding: Temperature and the like; its seed is that of the baseline.
        settings: Has the share of answers that may fail.
        engine: Asks, and counts failures.
        progress: Counts prompts, and says whether to stop.
        draw: Gives the answers of a model, by its number, by the ids of prompts; those that failed
            are missing. Without it they are asked for here, and kept in memory only.

    Raises:
        LimitError: Too many answers failed, or there is no prompt that both answered.
        Interrupted: The user asked to stop.
    """
    progress.start("evaluate", 2 * len(prompts), "answers")
    # Both are checked before anything is sampled: a seed has a largest value.
    settings_of = drawings(decoding)
    answers: list[dict[str, Completion]] = []
    for number, sampler in enumerate(samplers):
        if draw is None:
            answers.append(_answers(prompts, sampler, settings_of[number], engine, progress))
        else:
            answers.append(draw(number))
        # The next model, and the judge's, may need the memory.
        if (heavy := provided(sampler, Releases)) is not None:
            heavy.release()
    before, after = answers
    answered = [
        AnswerPair(prompt, before[prompt.id], after[prompt.id])
        for prompt in prompts
        if prompt.id in before and prompt.id in after
    ]
    if not answered:
        raise LimitError(
            f"evaluate: none of {len(prompts)} prompts was answered by both models "
            f"({top_reasons(engine.failures)})"
        )
    engine.check_failures(2 * len(prompts), settings.max_failed_fraction, where="evaluate")
    return answered


def _answers(
    prompts: list[Prompt],
    sampler: Samples,
    drawing: Decoding,
    engine: CallEngine,
    progress: Progress,
) -> dict[str, Completion]:
    """A model's answers by the ids of prompts; those that failed are missing."""
    found: dict[str, Completion] = {}

    async def work(shard: list[Prompt]) -> Groups:
        return await sample_shard(engine.scope(), sampler, shard, 1, drawing)

    def take(shard: list[Prompt], groups: Groups) -> None:
        found.update({prompt.id: drawn[0] for prompt, drawn in groups if drawn})
        progress.advance(len(shard))

    engine.run(in_parts(chunks(prompts, SHARD), work, take, concurrency=sampler.concurrency))
    return found


async def _in_both_orders(
    judge: Judge, engine: CallEngine, answered: Sequence[AnswerPair]
) -> list[BothOrders]:
    """The judgments of the same answers in either order, asked side by side."""
    after_first = [Matchup(one.prompt, one.after, one.before) for one in answered]
    before_first = [Matchup(one.prompt, one.before, one.after) for one in answered]
    orders = (judge.judge(engine, matchups) for matchups in (after_first, before_first))
    return list(zip(*await asyncio.gather(*orders), strict=True))


def according_to(
    judge: Judge,
    name: str,
    answered: Sequence[AnswerPair],
    engine: CallEngine,
    settings: EvaluateConfig,
    ask: Callable[[], list[BothOrders]] | None = None,
) -> JudgeResult:
    """Each prompt judged in both orders and averaged, and metrics of the judge.

    Args:
        judge: The judge.
        name: Its name for people.
        answered: The answers of both models.
        engine: Asks.
        settings: Has the share of judgments that may fail.
        ask: Gives the judgments in both orders; without it they are asked for here.

    Raises:
        DataError: The judge cannot work on a prompt.
        LimitError: Too many judgments failed, or there is no prompt with a verdict in both orders.
    """
    for one in answered:
        check_judge(judge, one.prompt, [one.before, one.after])
    both_orders = engine.run(_in_both_orders(judge, engine, answered)) if ask is None else ask()
    counts = JudgeCounts()
    p_first = []
    for judgments in zip(*both_orders, strict=True):
        counts.add(judgments)
        p_first.append([judgment.p_first for judgment in judgments])
    counts.check(settings.max_failed_fraction, where="evaluate", journal=engine.journal)
    both = both_order_wins(*p_first)
    wins = [float(win) for win in both.wins]
    if not wins:
        raise LimitError(
            f"evaluate: the judge gave no verdict in both orders on any of {len(answered)} prompts"
        )
    next_win = iter(wins)
    ids = [one.prompt.id for one in answered]
    verdicts = [
        (p, id_) for p, id_ in zip(p_first[0] + p_first[1], ids + ids, strict=True) if p is not None
    ]
    samples, seed = settings.bootstrap_samples, settings.seed
    metrics = [
        first_slot_rate(
            [p for p, _ in verdicts],
            prompt_ids=[id_ for _, id_ in verdicts],
            samples=samples,
            seed=seed,
        ),
        swap_consistency(*p_first, prompt_ids=ids, samples=samples, seed=seed),
    ]
    return JudgeResult(
        p_after=[next(next_win) if answer else None for answer in both.answered],
        head_to_head=head_to_head(name, "judge", wins, settings),
        metrics=metrics,
        notes=counts.failure_notes(),
        judgments=[judgment for pair in both_orders for judgment in pair],
    )


def head_to_head(
    judge: str, role: Literal["judge", "gold"], wins: Sequence[float], settings: EvaluateConfig
) -> HeadToHead:
    """The win rate over prompts, ties half."""
    rate = win_rate(
        wins,
        samples=settings.bootstrap_samples,
        seed=settings.seed,
        name="gold_win_rate" if role == "gold" else "win_rate",
    )
    return HeadToHead(
        judge=judge,
        role=role,
        win_rate=rate,
        wins=sum(win > 0.5 for win in wins),
        ties=sum(win == 0.5 for win in wins),
        losses=sum(win < 0.5 for win in wins),
    )


def before_and_after(answered: Sequence[AnswerPair], settings: EvaluateConfig) -> list[MetricValue]:
    """Figures of the answers of both models, each with its change on the same prompts.

    Lengths in characters, and in tokens if all are known; the shares of answers that the length
    limit has cut, that are empty, and that are word for word the answer to another prompt.
    """
    sides = [one.before for one in answered], [one.after for one in answered]

    def figures(
        name: str, unit: str, value: Callable[[list[Completion]], list[float]]
    ) -> list[MetricValue]:
        before, after = (value(answers) for answers in sides)
        if unit == "%":
            if not any(before + after):
                return []
            moved = change(name, before, after, settings, unit="points", scale=100)
            return [percentage(f"{name}_before", before), percentage(f"{name}_after", after), moved]
        return [
            mean(f"{name}_before", before, settings, unit=unit),
            mean(f"{name}_after", after, settings, unit=unit),
            change(name, before, after, settings, unit=unit),
        ]

    found = figures("mean_length", "characters", lambda side: [len(one.text) for one in side])
    everything = sides[0] + sides[1]
    if all(one.token_ids for one in everything):
        found += figures(
            "mean_tokens", "tokens", lambda side: [len(one.token_ids or ()) for one in side]
        )
    if all(one.finish_reason != "unknown" for one in everything):
        found += figures(
            "cut_answers", "%", lambda side: [one.finish_reason == "length" for one in side]
        )
    found += figures("empty_answers", "%", lambda side: [not one.text.strip() for one in side])
    found += figures("repeated_answers", "%", _repeated)
    return found


def _repeated(answers: list[Completion]) -> list[float]:
    texts = {str(number): answer.text for number, answer in enumerate(answers)}
    caught = set(identical_outputs(texts).caught)
    return [number in caught for number in texts]


def change(
    name: str,
    before: Sequence[float],
    after: Sequence[float],
    settings: EvaluateConfig,
    *,
    unit: str = "",
    scale: float = 1.0,
) -> MetricValue:
    """The mean change from before to after over prompts, with its paired interval."""
    return paired_change(
        f"{name}_change",
        before,
        after,
        samples=settings.bootstrap_samples,
        seed=settings.seed,
        unit=unit,
        scale=scale,
    )


def mean(
    name: str, values: Sequence[float], settings: EvaluateConfig, *, unit: str = ""
) -> MetricValue:
    """A mean over prompts with its interval."""
    return mean_value(
        name, values, samples=settings.bootstrap_samples, seed=settings.seed, unit=unit
    )
