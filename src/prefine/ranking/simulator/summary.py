"""From played worlds to a table: means with standard errors, the frontier of cost and regret, and advice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prefine.ranking.simulator.playing import Contestant, Played
from prefine.ranking.simulator.worlds import Array

CLEAR = 2.0
"""Standard errors by which a difference must exceed 0 to count as one."""


class Estimate(NamedTuple):
    """A mean over worlds and its standard error."""

    mean: float
    standard_error: float


class Prices(NamedTuple):
    """What one duel and one rating cost."""

    duel: float = 1.0
    rating: float = 1.0


@dataclass(frozen=True)
class Row:
    """What one strategy takes and finds, per prompt.

    Attributes:
        contestant: The strategy.
        finds_best: Whether it guarantees a champion; otherwise the first of its order stands in.
        calls: Duels and ratings asked.
        rounds: Calls that wait for others' answers, one after the other: the depth.
        cost: Calls at their prices.
        p_best: Share of worlds in which the champion is the best.
        regret: Quality that the champion lacks [sd].
        gaps: Quality of chosen minus rejected [sd], by selector, over the worlds in which there is a pair.
        frontier: No other row costs as little and has as little regret, with one of the two lower.
        clear: On the frontier, and its regret is clearly lower than that of the clear row before it: by more than 2
            standard errors of the difference, world by world. The cheapest row of the frontier is clear.
    """

    contestant: Contestant
    finds_best: bool
    calls: Estimate
    rounds: Estimate
    cost: Estimate
    p_best: Estimate
    regret: Estimate
    gaps: dict[str, Estimate]
    frontier: bool
    clear: bool


@dataclass(frozen=True)
class Advice:
    """The index of the recommended row, if there is one, and the reason in words."""

    row: int | None
    reason: str


def estimate(values: Array) -> Estimate:
    """The mean over worlds and its standard error; NaN, where there is nothing to measure, is left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(math.nan, math.nan)
    error = float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Estimate(float(known.mean()), error)


def summarise(
    contestants: Sequence[Contestant], played: Sequence[Played], finds_best: Sequence[bool], prices: Prices
) -> list[Row]:
    """One row per contestant, in their order; all of them must have played the same worlds."""
    costs = [prices.duel * (p.calls - p.ratings) + prices.rating * p.ratings for p in played]
    frontier = frontier_of([float(cost.mean()) for cost in costs], [float(p.regret.mean()) for p in played])
    clear = clear_steps(frontier, played)
    return [
        Row(
            contestant=contestant,
            finds_best=finds,
            calls=estimate(p.calls),
            rounds=estimate(p.rounds),
            cost=estimate(cost),
            p_best=estimate((p.regret == 0).astype(np.float64)),
            regret=estimate(p.regret),
            gaps={name: estimate(values) for name, values in p.gaps.items()},
            frontier=index in frontier,
            clear=index in clear,
        )
        for index, (contestant, p, cost, finds) in enumerate(zip(contestants, played, costs, finds_best, strict=True))
    ]


def frontier_of(costs: Sequence[float], regrets: Sequence[float]) -> list[int]:
    """Indices of those that nobody beats: cost and regret as low, and one of them lower. Cheapest first."""

    def beaten(i: int) -> bool:
        return any(
            c <= costs[i] and r <= regrets[i] and (c < costs[i] or r < regrets[i])
            for c, r in zip(costs, regrets, strict=True)
        )

    return sorted((i for i in range(len(costs)) if not beaten(i)), key=lambda i: (costs[i], i))


def clear_steps(frontier: Sequence[int], played: Sequence[Played]) -> list[int]:
    """The rows of a frontier whose regret is clearly lower than that of the one kept before them."""
    kept: list[int] = []
    for index in frontier:
        if not kept or _is_clear(estimate(played[kept[-1]].regret - played[index].regret)):
            kept.append(index)
    return kept


def _is_clear(gain: Estimate) -> bool:
    # NaN, the error of a single world, makes nothing clear.
    return gain.mean > CLEAR * gain.standard_error


def advise(rows: Sequence[Row], played: Sequence[Played], *, max_calls: float | None, max_cost: float | None) -> Advice:
    """Which strategy to take.

    With a limit, it is the lowest regret within it, less what is not clearly lower than for a cheaper one. Without, it
    is the row of the clear frontier with the smallest cost * regret^2. Averaging repeated calls halves regret for four
    times the cost, which leaves that product as it is: a dearer row has to do better than that.

    Args:
        rows: The table. Only strategies that guarantee a champion are advised.
        played: What the rows were made of.
        max_calls: Mean calls per prompt that are allowed.
        max_cost: Mean cost per prompt that is allowed.
    """
    limits = [(max_calls, "calls", "calls"), (max_cost, "cost", "in cost")]
    given = " and ".join(f"{limit:g} {unit}" for limit, _, unit in limits if limit is not None)
    finders = [i for i, row in enumerate(rows) if row.finds_best]
    if not finders:
        return Advice(None, "No strategy here guarantees a champion.")
    allowed = [
        i
        for i in finders
        if (max_calls is None or rows[i].calls.mean <= max_calls)
        and (max_cost is None or rows[i].cost.mean <= max_cost)
    ]
    if not allowed:
        least = min(finders, key=lambda i: (rows[i].cost.mean, rows[i].regret.mean))
        calls, cost = rows[least].calls.mean, rows[least].cost.mean
        return Advice(
            None,
            f"No strategy here does with {given} per prompt; the cheapest, {label(rows[least].contestant)}, takes "
            f"{calls:.1f} calls at a cost of {cost:.4g}.",
        )
    nobody_beats = frontier_of([rows[i].cost.mean for i in allowed], [rows[i].regret.mean for i in allowed])
    steps = clear_steps([allowed[i] for i in nobody_beats], played)
    if given:
        chosen = steps[-1]
        why = f"Within {given} per prompt nothing has clearly less regret, and what costs less has clearly more."
    else:
        chosen = min(steps, key=lambda i: rows[i].cost.mean * rows[i].regret.mean ** 2)
        why = (
            "Of the frontier it makes the most of its calls (smallest cost × regret²: asking more often lowers regret "
            "by the square root at best)."
        )
    place = steps.index(chosen)
    around = [_step(chosen, other, rows, played) for other in (*steps[:place][-1:], *steps[place + 1 :][:1])]
    if played[chosen].ratings.any():
        around.append("It asks for ratings, and was simulated with a scorer that sees as much as the judge.")
    return Advice(chosen, " ".join([why, *around]))


def _step(chosen: int, other: int, rows: Sequence[Row], played: Sequence[Played]) -> str:
    """What another row would save or buy."""
    name, change = label(rows[other].contestant), estimate(played[other].regret - played[chosen].regret)
    cost = rows[other].cost.mean - rows[chosen].cost.mean
    regret = f"{abs(change.mean):.3f} ± {change.standard_error:.3f} sd"
    unit = "calls" if all(row.cost == row.calls for row in rows) else "in cost"
    if cost < 0:
        return f"{name} would save {-cost:.3g} of {rows[chosen].cost.mean:.3g} {unit}, for {regret} more regret."
    return f"{name} would take {regret} off the regret, for {cost:.3g} {unit} more."


def label(contestant: Contestant) -> str:
    """The strategy and what was set, in one line: "iterative lazy", "circulant k=3"."""
    words = [str(value) if key == "order" else f"{key}={value}" for key, value in contestant.options]
    return " ".join([contestant.name, *words])
