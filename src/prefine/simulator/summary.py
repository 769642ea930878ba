"""The table of simulated strategies: means, standard errors, the frontier, and advice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from prefine.simulator.playing import Contestant, SimulatedGames
from prefine.simulator.worlds import Array, check

CLEAR = 2.0
"""Standard errors by which a difference must exceed 0 to count as one."""


class Estimate(NamedTuple):
    """A mean over worlds and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Prices:
    """The prices of one duel and one rating, both above 0.

    Raises:
        ConfigError: One of them is not.
    """

    duel: float = 1.0
    rating: float = 1.0

    def __post_init__(self) -> None:
        check("duel", self.duel)
        check("rating", self.rating)


@dataclass(frozen=True)
class StrategyResult:
    """The cost and the result of one strategy, per prompt.

    Attributes:
        contestant: The strategy.
        calls: Duels and ratings asked.
        rounds: Calls that wait for others' answers, one after the other: the depth.
        cost: Calls at their prices.
        p_best: Share of worlds in which the champion is the best.
        winner: Quality of the champion above the mean answer [sd]: one scale, whatever the number
            of completions.
        regret: Quality that the champion lacks [sd], compared with the best of these completions.
        gaps: Quality of chosen minus rejected [sd], by selector, over the worlds in which there is
            a pair.
        frontier: No other row costs as little and has as little regret, with one of the two lower.
        choice: On the frontier, and the one to choose at some limit on the cost: the cheapest row
            of the frontier whose regret nothing within that limit clearly beats, by more than 2
            standard errors of the difference, world by world.

    `frontier` and `choice` are among the strategies that find a best one and keep the limits; false
    for the others.
    """

    contestant: Contestant
    calls: Estimate
    rounds: Estimate
    cost: Estimate
    p_best: Estimate
    winner: Estimate
    regret: Estimate
    gaps: dict[str, Estimate]
    frontier: bool = False
    choice: bool = False

    @property
    def finds_best(self) -> bool:
        """True if the strategy guarantees a champion; else the first of its order stands in."""
        return self.contestant.finds_best


@dataclass(frozen=True)
class Advice:
    """The index of the recommended row, if there is one, and the reason in words."""

    row: int | None
    reason: str


def estimate(values: Array) -> Estimate:
    """The mean over the worlds where there is something to measure, not NaN; and its error."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(math.nan, math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Estimate(float(known.mean()), error)


def share(hits: Array) -> Estimate:
    """The share of worlds and its standard error.

    The error is that after two more worlds of each kind, so that all or none is not certain.
    """
    count = len(hits)
    wide = (float(hits.sum()) + 2) / (count + 4)
    return Estimate(float(hits.mean()), math.sqrt(wide * (1 - wide) / (count + 4)))


def summarise(
    contestants: Sequence[Contestant],
    played: Sequence[SimulatedGames],
    prices: Prices,
    *,
    max_calls: float | None = None,
    max_cost: float | None = None,
) -> tuple[list[StrategyResult], Advice]:
    """Return one row per contestant, in their order, and which to choose.

    All must have played the same worlds. Within a limit the choice is the cheapest row of the
    frontier that nothing within it clearly beats. Without one it is, of the rows that are the
    choice at some limit, the one with the smallest cost * regret^2: a rule of thumb for the knee of
    the curve, at which half the regret is worth four times the cost.

    Args:
        contestants: Those without a guaranteed champion are neither marked nor advised.
        played: The results of each.
        prices: Of the calls.
        max_calls: Mean calls per prompt that are allowed.
        max_cost: Mean cost per prompt that is allowed.
    """
    costs = [prices.duel * (p.calls - p.ratings) + prices.rating * p.ratings for p in played]
    rows = [
        StrategyResult(
            contestant=contestant,
            calls=estimate(p.calls),
            rounds=estimate(p.rounds),
            cost=estimate(cost),
            p_best=share((p.regret == 0).astype(np.float64)),
            winner=estimate(p.winner),
            regret=estimate(p.regret),
            gaps={name: estimate(values) for name, values in p.gaps.items()},
        )
        for contestant, p, cost in zip(contestants, played, costs, strict=True)
    ]
    finders = [i for i, row in enumerate(rows) if row.finds_best]
    allowed = [
        i
        for i in finders
        if (max_calls is None or rows[i].calls.mean <= max_calls)
        and (max_cost is None or rows[i].cost.mean <= max_cost)
    ]
    limits = [(max_calls, "calls"), (max_cost, "cost")]
    given = " and ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)
    # Where nothing keeps the limits, the marks are those without them.
    among = allowed or finders
    costs_of, regrets = [rows[i].cost.mean for i in among], [rows[i].regret.mean for i in among]
    frontier = [among[i] for i in frontier_of(costs_of, regrets)]
    choices = choices_of(among, frontier, [row.cost.mean for row in rows], played)
    marked = [
        replace(row, frontier=i in frontier, choice=i in choices) for i, row in enumerate(rows)
    ]
    if not finders:
        return marked, Advice(None, "No strategy here guarantees a champion.")
    if not allowed:
        least = marked[choices[0]]
        return marked, Advice(
            None,
            f"No strategy here does with {given} per prompt; the cheapest, "
            f"{label(least.contestant)}, takes {least.calls.mean:.1f} calls at a cost of "
            f"{least.cost.mean:.4g}.",
        )
    return marked, _advice(marked, played, frontier, choices, given)


def frontier_of(costs: Sequence[float], regrets: Sequence[float]) -> list[int]:
    """Indices of those that nobody beats, cheapest first.

    Another beats one if its cost and regret are as low, and one of them is lower.
    """

    def beaten(i: int) -> bool:
        return any(
            c <= costs[i] and r <= regrets[i] and (c < costs[i] or r < regrets[i])
            for c, r in zip(costs, regrets, strict=True)
        )

    return sorted((i for i in range(len(costs)) if not beaten(i)), key=lambda i: (costs[i], i))


def choices_of(
    among: Sequence[int],
    frontier: Sequence[int],
    costs: Sequence[float],
    played: Sequence[SimulatedGames],
) -> list[int]:
    """For each limit on cost, the cheapest of the frontier that nothing within it clearly beats.

    There always is one: the row with the least regret of all within the limit.
    """
    beaten_from = {
        i: min((costs[other] for other in among if _beats(other, i, played)), default=math.inf)
        for i in frontier
    }
    found = [
        next(i for i in frontier if limit < beaten_from[i])
        for limit in sorted({costs[i] for i in among})
    ]
    return list(dict.fromkeys(found))


def _beats(one: int, other: int, played: Sequence[SimulatedGames]) -> bool:
    """Return True if the regret of one is clearly lower.

    NaN, the error of a single world, makes nothing clear.
    """
    gain = estimate(played[other].regret - played[one].regret)
    return gain.mean > CLEAR * gain.standard_error


def _advice(
    rows: Sequence[StrategyResult],
    played: Sequence[SimulatedGames],
    frontier: Sequence[int],
    choices: Sequence[int],
    given: str,
) -> Advice:
    """The choice and its reason."""
    if given:
        chosen = choices[-1]
        why = [f"Within {given} per prompt nothing has clearly less regret."]
        if chosen != frontier[0]:
            why.append("Each cheaper one of the frontier is clearly beaten by something within it.")
    else:
        # What is free would be the choice whatever it finds.
        chosen = min(
            [i for i in choices if rows[i].cost.mean > 0] or choices,
            key=lambda i: rows[i].cost.mean * rows[i].regret.mean ** 2,
        )
        why = [
            "Of those that are the choice at some limit, it has the smallest cost × regret²: a "
            "rule of thumb for the knee of the curve, where half the regret is worth four times "
            "the cost."
        ]
    place = choices.index(chosen)
    why += [
        _step(chosen, other, rows, played)
        for other in (*choices[:place][-1:], *choices[place + 1 :][:1])
    ]
    if played[chosen].ratings.any():
        why.append(
            "It asks for ratings, and was simulated with a scorer that sees as much as the judge."
        )
    return Advice(chosen, " ".join(why))


def _step(
    chosen: int, other: int, rows: Sequence[StrategyResult], played: Sequence[SimulatedGames]
) -> str:
    """The cost and the regret of taking another row instead, in words."""
    name = label(rows[other].contestant)
    change = estimate(played[other].regret - played[chosen].regret)
    cost = rows[other].cost.mean - rows[chosen].cost.mean
    regret = f"{abs(change.mean):.3f} ± {change.standard_error:.3f} sd"
    unit = "calls" if all(row.cost == row.calls for row in rows) else "in cost"
    if cost < 0:
        return (
            f"{name} would save {-cost:.3g} of {rows[chosen].cost.mean:.3g} {unit}, for "
            f"{regret} more regret."
        )
    return f"{name} would take {regret} off the regret, for {cost:.3g} {unit} more."


def label(contestant: Contestant) -> str:
    """The strategy and its options in one line: "iterative lazy", "circulant k=3"."""
    words = [
        str(value) if key == "order" else f"{key}={value}" for key, value in contestant.options
    ]
    return " ".join([contestant.name, *words])
