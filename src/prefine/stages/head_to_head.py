"""Two models' answers to the same prompts: who wins in whose eyes, and how long the answers are."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from prefine.calls.engine import CallEngine
from prefine.config.sections import EvaluateConfig
from prefine.errors import LimitError
from prefine.judging.protocol import Judge, Matchup
from prefine.metrics.judges.verdicts import first_slot_rate, swap_consistency
from prefine.metrics.statistics.intervals import mean_value
from prefine.metrics.win_rates.win_rates import both_order_wins, win_rate
from prefine.records import Completion, Judgment, MetricValue, Prompt
from prefine.report.data import HeadToHead
from prefine.stages.failures import Failures
from prefine.stages.stage_run import check_judge


class AnsweredByBoth(NamedTuple):
    """One evaluation prompt with the answers of baseline and trained model."""

    prompt: Prompt
    before: Completion
    after: Completion


class JudgeResult(NamedTuple):
    """What a judge saw: each prompt's P(after is better), None without a verdict in both orders, and the figures."""

    p_after: list[float | None]
    head_to_head: HeadToHead
    facts: list[MetricValue]
    failures: Failures


def answered_by_both(
    prompts: Sequence[Prompt],
    before: Mapping[str, Completion],
    after: Mapping[str, Completion],
    engine: CallEngine,
) -> list[AnsweredByBoth]:
    """The prompts that both models answered; the answers are given by prompt id.

    Raises:
        LimitError: There is none.
    """
    answered = [
        AnsweredByBoth(prompt, before[prompt.id], after[prompt.id])
        for prompt in prompts
        if prompt.id in before and prompt.id in after
    ]
    if not answered:
        reasons = ", ".join(
            f"{count} × {reason}" for reason, count in engine.failures.most_common(3)
        )
        raise LimitError(
            f"evaluate: none of {len(prompts)} prompts was answered by both models ({reasons})"
        )
    return answered


def according_to(
    judge: Judge,
    name: str,
    answered: Sequence[AnsweredByBoth],
    engine: CallEngine,
    settings: EvaluateConfig,
) -> JudgeResult:
    """Each prompt judged in both orders and averaged, and facts about the judge.

    Raises:
        DataError: The judge cannot work on a prompt.
        LimitError: Too many judgments failed, or there is no prompt with a verdict in both orders.
    """
    for one in answered:
        check_judge(judge, one.prompt, [one.before, one.after])
    shown_first = judge.judge(
        engine, [Matchup(one.prompt, one.after, one.before) for one in answered]
    )
    shown_second = judge.judge(
        engine, [Matchup(one.prompt, one.before, one.after) for one in answered]
    )
    failures = Failures()
    failures.count([*shown_first, *shown_second])
    failures.check(settings.max_failed_fraction, where="evaluate", journal=engine.journal)
    first, second = _p_first(shown_first), _p_first(shown_second)
    both = both_order_wins(first, second)
    if not len(both.wins):
        raise LimitError(
            f"evaluate: the judge gave no verdict in both orders on any of {len(answered)} prompts"
        )
    p_after: list[float | None] = [None] * len(answered)
    for place, value in zip(
        (i for i, ok in enumerate(both.answered) if ok), both.wins, strict=True
    ):
        p_after[place] = float(value)
    ids = [one.prompt.id for one in answered]
    judged = [(p, id_) for p, id_ in zip(first + second, ids + ids, strict=True) if p is not None]
    rates = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    facts = [
        first_slot_rate([p for p, _ in judged], prompt_ids=[id_ for _, id_ in judged], **rates),
        swap_consistency(first, second, prompt_ids=ids, **rates),
    ]
    return JudgeResult(
        p_after, head_to_head(name, "judge", list(map(float, both.wins)), settings), facts, failures
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
        wins=sum(w > 0.5 for w in wins),
        ties=sum(w == 0.5 for w in wins),
        losses=sum(w < 0.5 for w in wins),
    )


def lengths(answered: Sequence[AnsweredByBoth], settings: EvaluateConfig) -> list[MetricValue]:
    """Mean lengths of the answers before and after, in characters, and in tokens where all of them are known."""
    sides = {"before": [one.before for one in answered], "after": [one.after for one in answered]}
    found = [
        mean(
            f"mean_length_{name}",
            [len(answer.text) for answer in answers],
            settings,
            unit="characters",
        )
        for name, answers in sides.items()
    ]
    tokens = {
        name: [len(answer.token_ids or ()) for answer in answers] for name, answers in sides.items()
    }
    if all(count for counts in tokens.values() for count in counts):
        found += [
            mean(f"mean_tokens_{name}", counts, settings, unit="tokens")
            for name, counts in tokens.items()
        ]
    return found


def mean(
    name: str, values: Sequence[float], settings: EvaluateConfig, *, unit: str = ""
) -> MetricValue:
    """A mean over prompts with its interval."""
    return mean_value(
        name, values, samples=settings.bootstrap_samples, seed=settings.seed, unit=unit
    )


def _p_first(judgments: Sequence[Judgment]) -> list[float | None]:
    return [judgment.p_first for judgment in judgments]
