"""The outcome of a run in words, a warning when a judge is exploited, and the key figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefine.records import MetricValue
from prefine.report.data import HeadToHead, ReportData
from prefine.report.text import (
    NBSP,
    interval_text,
    percent_decimals,
    value_text,
)

EXPLOITED = "The judge likes the trained model more, gold does not: the judge is being exploited"

Verdict = Literal["better", "worse", "undecided", "unknown"]
VERDICT_WORDS: dict[Verdict, str] = {
    "better": f"better: the interval is above 50{NBSP}%",
    "worse": f"worse: the interval is below 50{NBSP}%",
    "undecided": f"undecided: the interval includes 50{NBSP}%",
    "unknown": "no interval was computed",
}


@dataclass(frozen=True)
class Headline:
    """The claim, its interval, and a line of context."""

    tone: Verdict
    claim: str
    interval: str = ""
    context: str = ""


def verdict(rate: MetricValue) -> Verdict:
    """Return on which side of 50 % a win rate's interval lies; unknown without an interval."""
    if rate.interval is None:
        return "unknown"
    low, high = rate.interval
    return "better" if low > 50 else "worse" if high < 50 else "undecided"


def tally(contest: HeadToHead) -> list[tuple[str, int, str]]:
    """Return how often the trained model won, tied and lost: name, count and kind of each."""
    return [
        ("won", contest.wins, "win"),
        ("tied", contest.ties, "tie"),
        ("lost", contest.losses, "loss"),
    ]


def hundredths(contest: HeadToHead) -> list[str]:
    """Share out a hundred squares with largest remainders; returns the kind of each."""
    parts = tally(contest)
    total = sum(count for _, count, _ in parts)
    exact = [100 * count / total for _, count, _ in parts]
    squares = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: squares[i] - exact[i])
    for i in by_remainder[: 100 - sum(squares)]:
        squares[i] += 1
    return [kind for (_, _, kind), count in zip(parts, squares, strict=True) for _ in range(count)]


def tally_words(contest: HeadToHead) -> str:
    """Return the same in words."""
    return ", ".join(f"{count:,} {name}" for name, count, _ in tally(contest))


def rate_texts(rate: MetricValue) -> tuple[str, str]:
    """Format a win rate and its interval, as whole percentages where these do not mislead."""
    decimals = percent_decimals((rate.value, *(rate.interval or ())))
    return value_text(rate, decimals), interval_text(rate, decimals)


def alarm(contests: Sequence[HeadToHead]) -> str | None:
    """Say that a judge sees a clear win that gold does not confirm, with both numbers, or None."""
    convinced = [c for c in contests if c.role == "judge" and verdict(c.win_rate) == "better"]
    doubting = [c for c in contests if c.role == "gold" and not _confirms(c.win_rate)]
    if not convinced or not doubting:
        return None
    return f"The {'; '.join(map(_finding, convinced + doubting))}"


def _confirms(rate: MetricValue) -> bool:
    return verdict(rate) == "better" or (rate.interval is None and rate.value > 50)


def _finding(contest: HeadToHead) -> str:
    value, interval = rate_texts(contest.win_rate)
    return f"{_whose(contest)} says {value}" + (f" ({interval})" if interval else "")


def _whose(contest: HeadToHead) -> str:
    return f"{contest.role} “{contest.judge}”"


def gold_first(contests: Sequence[HeadToHead]) -> list[HeadToHead]:
    """Return the contests in the order in which they count."""
    return sorted(contests, key=lambda contest: contest.role != "gold")


def headline(data: ReportData) -> Headline:
    """Return the sentence at the head of the page; without a contest nothing is claimed."""
    if not data.contests:
        done = "The model was trained, but" if data.training else "Nothing is decided:"
        missing = "no contest between the trained model and the baseline was held"
        return Headline("unknown", f"{done} {missing}")
    first, *others = gold_first(data.contests)
    found = verdict(first.win_rate)
    value, interval = rate_texts(first.win_rate)
    wins = {
        "worse": "The trained model is worse: it wins only",
        "undecided": "No clear difference: the trained model wins",
    }.get(found, "The trained model wins")
    includes = f", which includes 50{NBSP}%" if found == "undecided" else ""
    context = f"According to {_whose(first)}"
    if others:
        context += f"; {' and '.join(map(_finding, others))}"
    return Headline(
        found,
        f"{wins} {value} of {first.win_rate.n:,} {_prompts(data.prompts_also_trained_on)}",
        f"(95{NBSP}% interval {interval}{includes})" if interval else "(no interval was computed)",
        f"{context}. A tie counts half.",
    )


def _prompts(also_trained_on: int | None) -> str:
    if also_trained_on is None:
        return "prompts"
    if also_trained_on == 0:
        return "unseen prompts"
    return f"prompts, {also_trained_on:,} of which it was trained on"
