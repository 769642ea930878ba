"""The outcome of a run in words: win rates, and what changed from before to after."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefine.metrics.statistics.normal import normal_interval
from prefine.records import MetricValue
from prefine.report.data import ConstraintScore, HeadToHead, ReportData, fall_unit
from prefine.report.text import (
    NBSP,
    interval_text,
    number,
    percent_decimals,
    plural,
    span,
    value_text,
)

EXPLOITED = "The judge likes the trained model more, gold does not: the judge is being exploited"
MORE_TRAINING = "More training against this judge makes answers that please it, not better answers."

_ROUNDING = 1e-6

Verdict = Literal["better", "worse", "undecided", "unknown"]
VERDICT_WORDS: dict[Verdict, str] = {
    "better": f"better: the interval is above 50{NBSP}%",
    "worse": f"worse: the interval is below 50{NBSP}%",
    "undecided": f"undecided: the interval includes 50{NBSP}%",
    "unknown": "no interval was computed",
}


Direction = Literal["up", "down", "undecided", "unknown"]


@dataclass(frozen=True)
class Change:
    """A figure before and after on the same prompts; `change` is the mean paired difference."""

    name: str
    before: MetricValue
    after: MetricValue
    change: MetricValue | None

    @property
    def direction(self) -> Direction:
        """Return the sign of the change if its interval is clear of 0; unknown without one."""
        if self.change is None or self.change.interval is None:
            return "unknown"
        low, high = self.change.interval
        return "up" if low > 0 else "down" if high < 0 else "undecided"

    def decimals(self, fewest: int) -> int:
        """Return how many decimals show on which side of 0 the interval's bounds lie, up to 4."""
        bounds = () if self.change is None else self.change.interval or ()
        enough = (
            decimals
            for decimals in range(fewest, 4)
            if all(bound == 0 or round(bound, decimals) for bound in bounds)
        )
        return next(enough, 4)


BudgetVerdict = Literal["kept", "exceeded", "undecided"]


@dataclass(frozen=True)
class BudgetOutcome:
    """The outcome of the budget on held-out items, which training has not seen.

    Attributes:
        delta: The budget, in `unit`.
        held_out: The fall of the held-out pairs with its interval; `n` counts pairs.
        verdict: By the interval: kept below the budget, exceeded above it, else undecided.
        of: The figure of the falls that the budget is about.
        items: The kind of the items, as a plural.
        untouched: A controller has not seen them, either.
    """

    delta: float
    unit: str
    held_out: MetricValue
    verdict: BudgetVerdict
    of: str = "mean"
    items: str = "pairs"
    untouched: bool = False

    @property
    def item(self) -> str:
        """Return the words for one of the items."""
        kind = "untouched" if self.untouched else "held-out"
        return f"{kind} {self.items.removesuffix('s')}"


def budget_outcome(data: ReportData) -> BudgetOutcome | None:
    """Return the outcome of the budget; None without a budget, or where no pairs were held out.

    Where a controller set the weight, it is about the pairs that this has not seen.
    """
    if data.delta is None:
        return None
    unit = fall_unit(data.delta_per)
    if data.budget_points:
        end = data.budget_points[-1]
        if end.untouched_fall is None:
            return None
        return judge_budget(
            data.delta,
            unit,
            end.untouched_fall,
            end.untouched_fall_se,
            count=end.untouched,
            of=data.delta_of,
            items=data.items,
            untouched=True,
        )
    if not data.evaluations or data.evaluations[-1].step == 0:
        return None
    last = data.evaluations[-1]
    return judge_budget(data.delta, unit, last.fall, last.fall_se, count=last.pairs)


def judge_budget(
    delta: float,
    unit: str,
    held_out: float,
    standard_error: float | None,
    *,
    count: int,
    of: str = "mean",
    items: str = "pairs",
    untouched: bool = False,
) -> BudgetOutcome:
    """Return the outcome of a budget from the fall of held-out items and its standard error."""
    verdict: BudgetVerdict = "undecided"
    interval = None
    if standard_error is not None:
        interval = normal_interval(held_out, standard_error)
        verdict = "kept" if interval[1] <= delta else "exceeded" if interval[0] > delta else verdict
    fall = MetricValue(
        name="untouched_fall" if untouched else "held_out_fall",
        value=held_out,
        standard_error=standard_error,
        interval=interval,
        n=count,
        unit=unit,
    )
    return BudgetOutcome(delta, unit, fall, verdict, of, items, untouched)


def interval_words(mean: float, standard_error: float | None) -> str:
    """Return the 95 % interval of a mean in words, or that there is none."""
    if standard_error is None:
        return "no interval was computed"
    interval = normal_interval(mean, standard_error)
    return f"95{NBSP}% interval {span(*(number(bound, 2) for bound in interval))}"


def budget_sentence(found: BudgetOutcome) -> str:
    """Return the verdict on a budget with its numbers."""
    rose = found.held_out.value < 0
    change = _negated(found.held_out) if rose else found.held_out
    interval = interval_text(change, 2)
    unseen = ", which neither training nor the controller has seen," if found.untouched else ""
    of = "" if found.of == "mean" else f" in the {found.of}"
    return (
        f"The budget of {number(found.delta)} {found.unit} is {found.verdict}: on "
        f"{plural(found.held_out.n, found.item)}{unseen} the chosen answers "
        f"{'rose' if rose else 'fell'} by {number(change.value, 2)} {found.unit}{of}"
        + (f" (95{NBSP}% interval {interval})." if interval else ".")
    )


def _negated(fall: MetricValue) -> MetricValue:
    low_high = fall.interval and (-fall.interval[1], -fall.interval[0])
    return fall.model_copy(update={"value": -fall.value, "interval": low_high})


SCORE_WORDS: dict[Direction, str] = {
    "up": "better",
    "down": "worse",
    "undecided": "undecided",
    "unknown": "no interval",
}
FIGURE_WORDS: dict[Direction, str] = SCORE_WORDS | {"up": "more", "down": "less"}


def score_changes(constraints: Sequence[ConstraintScore]) -> list[Change]:
    """Return the changes of the gold scores, most improved first."""
    found = [Change(one.name, one.before, one.after, one.change) for one in constraints]
    return sorted(found, key=lambda c: (c.before.value - c.after.value, c.name))


def figure_changes(metrics: Sequence[MetricValue]) -> list[Change]:
    """Return the metrics that have a value before, one after, and their change."""
    named = {metric.name: metric for metric in metrics}
    return [
        Change(name, before, named[f"{name}_after"], named[f"{name}_change"])
        for before in metrics
        if (name := before.name.removesuffix("_before")) != before.name
        and {f"{name}_after", f"{name}_change"} <= named.keys()
    ]


def single_figures(metrics: Sequence[MetricValue]) -> list[MetricValue]:
    """Return the metrics that belong to no change."""
    paired = {
        f"{one.name}_{part}"
        for one in figure_changes(metrics)
        for part in ("before", "after", "change")
    }
    return [metric for metric in metrics if metric.name not in paired]


def score_summary(changes: Sequence[Change]) -> str:
    """Return the sentence that counts the constraints by what their intervals say."""
    counted = Counter(SCORE_WORDS[one.direction] for one in changes)
    parts = [f"{counted['better']} better kept after training", f"{counted['worse']} worse"]
    parts += [f"{counted[word]} {said}" for word, said in _NOT_CLEAR.items() if counted[word]]
    return f"Of {plural(len(changes), 'constraint')}, {', '.join(parts)}."


_NOT_CLEAR = {"undecided": "undecided", "no interval": "without an interval"}


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


def is_soft(contest: HeadToHead) -> bool:
    """Return True if verdicts are probabilities, so that counts of wins do not give the rate."""
    total = contest.wins + contest.ties + contest.losses
    return (
        bool(total)
        and abs(100 * (contest.wins + contest.ties / 2) / total - contest.win_rate.value)
        > _ROUNDING
    )


def hundredths(contest: HeadToHead) -> list[str]:
    """Share out a hundred squares with largest remainders; returns the kind of each.

    They show the counts, or where verdicts are probabilities their mean: what the rate says.
    """
    parts: list[tuple[float, str]] = [(count, kind) for _, count, kind in tally(contest)]
    if is_soft(contest):
        rate = contest.win_rate.value
        parts = [(rate, "win"), (100 - rate, "loss")]
    total = sum(count for count, _ in parts)
    exact = [100 * count / total for count, _ in parts]
    squares = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: squares[i] - exact[i])
    for i in by_remainder[: 100 - sum(squares)]:
        squares[i] += 1
    return [kind for (_, kind), count in zip(parts, squares, strict=True) for _ in range(count)]


def tally_words(contest: HeadToHead) -> str:
    """Return the same in words."""
    words = ", ".join(f"{count:,} {name}" for name, count, _ in tally(contest))
    return f"{words} (P above, at and below 50{NBSP}%)" if is_soft(contest) else words


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


_VERDICTS: dict[Verdict, str] = {
    "better": "Better: the trained model beats {baseline} according to {whose}",
    "worse": "Worse: the trained model loses to {baseline} according to {whose}",
    "undecided": "Undecided: neither model is clearly better according to {whose}",
    "unknown": "Undecided: no interval was computed, according to {whose}",
}


def verdict_line(data: ReportData) -> str:
    """Return the verdict of contest and budget in one sentence; empty without a contest."""
    if not data.contests:
        return ""
    first = gold_first(data.contests)[0]
    line = _VERDICTS[verdict(first.win_rate)].format(baseline=data.baseline, whose=_whose(first))
    if data.delta is None:
        return f"{line}."
    budget = budget_outcome(data)
    if budget is None:
        return f"{line}; nothing is known of the budget on held-out answers."
    if budget.verdict == "undecided":
        return f"{line}, and whether the budget was kept is undecided on held-out answers."
    return f"{line}, and the budget was {budget.verdict} on held-out answers."


def headline(data: ReportData) -> Headline:
    """Return the sentence at the head of the page: of contests, else of held-out pairs, if any."""
    if not data.contests:
        return _without_contests(data)
    first, *others = gold_first(data.contests)
    found = verdict(first.win_rate)
    value, interval = rate_texts(first.win_rate)
    opening = {
        "worse": "The trained model is worse: its win rate is only",
        "undecided": "No clear difference: the trained model’s win rate is",
    }.get(found, "The trained model’s win rate is")
    includes = f", which includes 50{NBSP}%" if found == "undecided" else ""
    context = f"According to {_whose(first)}: {tally_words(first)}"
    if others:
        context += f"; {' and '.join(map(_finding, others))}"
    return Headline(
        found,
        f"{opening} {value} on {first.win_rate.n:,} {_prompts(data.prompts_also_trained_on)}",
        f"(95{NBSP}% interval {interval}{includes})" if interval else "(no interval was computed)",
        f"{context}. A tie counts half.",
    )


_OVER_CHANCE: dict[Verdict, str] = {
    "better": "more often than chance",
    "worse": "less often than chance",
    "undecided": "undecided whether more often than chance",
    "unknown": "no interval was computed",
}


_NOT_COMPARED = " No answers before and after training were compared."
_UNJUDGED_REWARDS = (
    "A reward model was trained, but nothing is known of it on held-out pairs; set "
    "pair.held_out_prompts"
)


def _without_contests(data: ReportData) -> Headline:
    """Return what is known of a run in which no answers before and after training were judged."""
    named = {metric.name: metric for metric in data.metrics}
    if (accuracy := named.get("reward_accuracy")) is not None:
        return _picks(accuracy, named.get("longer_is_better"), rewards=data.reward_model)
    if data.reward_model and (accuracy := named.get("reward_ranking_accuracy")) is not None:
        within = " of answers in held-out lists"
        return _picks(accuracy, named.get("longer_is_better"), rewards=True, within=within)
    if data.reward_model and data.unfinished is None:
        return Headline("unknown", _UNJUDGED_REWARDS)
    if data.unfinished is not None:
        done = f"This run has not finished: stage {data.unfinished} began and did not end"
        steps = plural(len(data.training), "step")
        at = f" Training reached {steps}." if data.training else ""
        why = f" It stopped with: {data.stopped_by}" if data.stopped_by is not None else ""
        return Headline("unknown", done, context=f"The same command goes on from here.{at}{why}")
    done = "The model was trained, but" if data.training else "Nothing is decided:"
    missing = "no contest between the trained model and the baseline was held"
    return Headline("unknown", f"{done} {missing}")


def _picks(
    accuracy: MetricValue,
    longer: MetricValue | None,
    *,
    rewards: bool = False,
    within: str | None = None,
) -> Headline:
    value, interval = rate_texts(accuracy)
    claim, bounds = f"It picks the preferred answer {value} of the time", [interval]
    if longer is not None:
        of_longer, longer_interval = rate_texts(longer)
        claim += f"; always taking the longer one gives {of_longer}"
        bounds.append(longer_interval)
    known = all(bounds)
    intervals = f"95{NBSP}% interval{'s' if len(bounds) > 1 else ''} {' and '.join(bounds)}"
    found = verdict(accuracy)
    on = plural(accuracy.n, "held-out pair")
    if within is not None:
        on = f"{plural(accuracy.n, 'comparison')}{within}"
    sign = "higher reward" if rewards else "sign of the margin"
    return Headline(
        found,
        claim,
        f"({intervals})" if known else "(no interval was computed)",
        f"On {on}, by the {sign}: {_OVER_CHANCE[found]}.{'' if rewards else _NOT_COMPARED}",
    )


def _prompts(also_trained_on: int | None) -> str:
    if also_trained_on is None:
        return "prompts"
    if also_trained_on == 0:
        return "unseen prompts"
    return f"prompts, {also_trained_on:,} of which it was trained on"
