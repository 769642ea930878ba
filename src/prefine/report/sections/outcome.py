"""What the report says in words: the outcome, the warning about an exploited judge, the key figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefine.records import MetricValue
from prefine.report.data import HeadToHead, ReportData
from prefine.report.svg import NBSP, number, plural, span, with_unit

EXPLOITED = "The judge likes the trained model more, gold does not: the judge is being exploited"

Verdict = Literal["better", "worse", "undecided", "unknown"]


@dataclass(frozen=True)
class Headline:
    """The claim, its interval, and a line of context."""

    tone: Verdict
    claim: str
    interval: str
    context: str = ""


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    note: str = ""


def verdict(rate: MetricValue) -> Verdict:
    """What a win rate's interval allows to say: on one side of 50 %, or not decided; unknown without an interval."""
    if rate.interval is None:
        return "unknown"
    low, high = rate.interval
    return "better" if low > 50 else "worse" if high < 50 else "undecided"


def percent_decimals(values: Sequence[float]) -> int:
    """The fewest decimals with which no value is rounded onto 0, 50 or 100 % without being there."""
    for decimals in range(3):
        if all(
            (round(v, decimals) == edge) <= (v == edge) for v in values for edge in (0, 50, 100)
        ):
            return decimals
    return 3


def rate_texts(rate: MetricValue) -> tuple[str, str]:
    """A win rate and its interval for a sentence, as whole percentages where these do not mislead."""
    decimals = percent_decimals((rate.value, *(rate.interval or ())))
    value = with_unit(number(rate.value, decimals), rate.unit)
    if rate.interval is None:
        return value, ""
    low, high = (number(bound, decimals) for bound in rate.interval)
    return value, with_unit(span(low, high), rate.unit)


def exploited(contests: Sequence[HeadToHead]) -> bool:
    """Whether a judge sees a clear win that gold does not confirm."""
    judge_wins = any(c.role == "judge" and verdict(c.win_rate) == "better" for c in contests)
    gold_doubts = any(c.role == "gold" and not _confirms(c.win_rate) for c in contests)
    return judge_wins and gold_doubts


def _confirms(rate: MetricValue) -> bool:
    return verdict(rate) == "better" or (rate.interval is None and rate.value > 50)


def alarm(data: ReportData) -> str | None:
    """The warning that a judge is exploited, with both numbers, or None."""
    if not exploited(data.contests):
        return None
    judges = [c for c in data.contests if c.role == "judge" and verdict(c.win_rate) == "better"]
    golds = [c for c in data.contests if c.role == "gold" and not _confirms(c.win_rate)]
    sides = [f"{_whose(c)} says {_rate_in_words(c)}" for c in judges + golds]
    return f"The {'; '.join(sides)}"


def _whose(contest: HeadToHead) -> str:
    return f"{contest.role} “{contest.judge}”"


def _rate_in_words(contest: HeadToHead) -> str:
    value, interval = rate_texts(contest.win_rate)
    return f"{value} ({interval})" if interval else value


def outcome(data: ReportData) -> Headline:
    """The one sentence at the head of the page. Gold speaks before judges; without a contest nothing is claimed."""
    ordered = sorted(data.contests, key=lambda c: c.role != "gold")
    if not ordered:
        done = "The model was trained, but" if data.training else "Nothing is decided:"
        return Headline(
            "unknown", f"{done} no contest between the trained model and the baseline was held", ""
        )
    first, *others = ordered
    found = verdict(first.win_rate)
    value, interval = rate_texts(first.win_rate)
    many = f"{first.win_rate.n:,} {_prompts(data)}"
    claim = {
        "better": f"The trained model wins {value} of {many}",
        "worse": f"The trained model is worse: it wins only {value} of {many}",
        "undecided": f"No clear difference: the trained model wins {value} of {many}",
        "unknown": f"The trained model wins {value} of {many}",
    }[found]
    bounds = {
        "undecided": f"(95{NBSP}% interval {interval}, which includes 50{NBSP}%)",
        "unknown": "(no interval was computed)",
    }.get(found, f"(95{NBSP}% interval {interval})")
    eyes = f"In the eyes of {_whose(first)}"
    context = (
        f"{eyes}; {' and '.join(f'{_whose(c)} says {_rate_in_words(c)}' for c in others)}."
        if others
        else f"{eyes}."
    )
    return Headline(found, claim, bounds, f"{context} A tie counts half.")


def _prompts(data: ReportData) -> str:
    if data.prompts_also_trained_on is None:
        return "prompts"
    if data.prompts_also_trained_on == 0:
        return "unseen prompts"
    return f"prompts, {data.prompts_also_trained_on:,} of which it was trained on"


def duration(seconds: float) -> str:
    """A time for people: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s" if rest else f"{minutes}{NBSP}min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{NBSP}h {minutes}{NBSP}min" if minutes else f"{hours:,}{NBSP}h"


def tiles(data: ReportData) -> list[Tile]:
    """The key figures that exist, most important first."""
    found = []
    for role in ("gold", "judge"):
        contest = next((c for c in data.contests if c.role == role), None)
        if contest is not None:
            value, interval = rate_texts(contest.win_rate)
            found.append(
                Tile(f"Win rate, {role}", value, f"interval {interval}" if interval else "")
            )
    if data.training:
        last = data.trained or data.training[-1]
        per_answer = data.delta is not None and data.delta_per == "sequence"
        note = (
            f"nats at the end; budget{NBSP}{number(-(data.delta or 0.0))}"
            if per_answer
            else "nats at the end"
        )
        found.append(Tile("Chosen log-prob.", number(last.chosen_change, signed=True), note))
        if last.beyond_delta is not None:
            found.append(
                Tile(
                    "Beyond the budget",
                    with_unit(number(100 * last.beyond_delta, 0), "%"),
                    "of pairs, at the end" if data.trained else "of pairs, last step",
                )
            )
    pairs = next((step for step in data.road if step.stage == "pair"), None)
    if pairs is not None:
        found.append(
            Tile(
                "Preference pairs",
                f"{pairs.counts.produced:,}",
                f"from {pairs.counts.taken:,} {pairs.takes}",
            )
        )
    if data.road:
        calls = sum(step.calls for step in data.road)
        again = sum(step.repeated_after_interruption for step in data.road)
        found.append(
            Tile(
                "Calls",
                f"{calls:,}",
                f"{again:,} repeated after a stop" if again else "none repeated",
            )
        )
        found.append(
            Tile(
                "Wall time",
                duration(sum(s.seconds for s in data.road)),
                plural(len(data.road), "stage"),
            )
        )
    return found
