"""Round robin: everyone meets everyone, in one round."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np

from prefine.ranking.orders import in_orders
from prefine.ranking.protocol import Answers, Duel, Outcome, Strategy, strategy
from prefine.ranking.strategies.circulant import circle
from prefine.ranking.strategies.duel_history import DuelHistory
from prefine.ranking.tournament import (
    Floats,
    by_copeland,
    copeland,
    cyclic_triads,
    points,
    two_sided,
)

PairOrder = Literal["single", "both", "average"]


def _max_asks(m: int, *, order: PairOrder = "single") -> int:
    """The number of calls for m completions."""
    return len(in_orders(balanced_duels(m), order))


@strategy(guarantees={"best", "worst", "order", "scores"}, max_asks=_max_asks, rounds=lambda m: 1)
def round_robin(
    num_completions: int,
    *,
    order: PairOrder = "single",
    scores: Literal["copeland", "bradley_terry"] = "copeland",
) -> Strategy:
    """Rank M completions from all M (M - 1) / 2 duels, asked in one round.

    A completion's Copeland score is its mean over the opponents for which there is an answer: 1 for
    a win, 1/2 for a tie, 0 for a loss. Equal scores are ordered by mean P(better) over those
    opponents, then by index. Bradley-Terry scores are log-odds with standard errors; of scores that
    differ by less than the fit's accuracy the lower index is first.

    A duel of which a call failed is missing: it counts for nobody. If a completion has no answered
    duel, its place is unknown: champion and worst are those of the others, `order` and `scores` are
    None. If no duel was answered, nothing was found and every field is None.

    `cyclic_triads` counts the three-cycles of strict wins; a triad with a tie in it is no cycle.
    With a missing duel the number is unknown: None.

    Args:
        num_completions: M, at least 2.
        order: "single" asks each pair once, every completion being shown first in half of its
            duels, or the nearest whole number. "both" asks both orders; a win needs both of them,
            all else is a tie. "average" asks both orders and takes the mean of the two P(better);
            exactly 1/2 is a tie.
        scores: "copeland" counts wins, "bradley_terry" fits every answer. Neither needs to know the
            judge's preference for a slot: the slots are balanced.

    Raises:
        ValueError: M is below 2.
    Source: Copeland's method; cyclic triads C(n, 3) - sum C(out-degree, 2) of a tournament.
    """
    duels = balanced_duels(num_completions)
    asks = in_orders(duels, order)
    answers = yield [*asks]
    wins, p_better = _tables(num_completions, duels, answers, order)
    ranked = by_copeland(wins, p_better)
    if not ranked:
        return Outcome()
    if len(ranked) < num_completions:
        return Outcome(champion=ranked[0], worst=ranked[-1])
    found = Outcome(order=tuple(ranked), scores=tuple(copeland(wins).tolist()))
    if scores == "bradley_terry":
        history = DuelHistory(num_completions)
        history.record(asks, answers)
        found = history.outcome(ordered=True)
        ranked = list(found.order or ())
    complete = not np.isnan(wins[~np.eye(num_completions, dtype=bool)]).any()
    return replace(
        found,
        champion=ranked[0],
        worst=ranked[-1],
        cyclic_triads=cyclic_triads(wins) if complete else None,
    )


@cache
def balanced_duels(num_completions: int) -> tuple[Duel, ...]:
    """Every pair once, each completion first in half of its duels (M odd) or within 1/2 of that.

    The scheme is a circle: each is shown first against the half of the others that follows it. For
    even M the one opposite is left over, and the lower of the two is first.
    """
    return tuple(circle(num_completions, num_completions // 2))


def _tables(
    m: int, duels: Sequence[Duel], answers: Answers, order: PairOrder
) -> tuple[Floats, Floats]:
    """Points (1, 1/2, 0) and P(better) of each against each [M, M]; NaN where a call failed."""
    p_better = np.array(answers, dtype=np.float64)
    wins = points(p_better)
    if order != "single":
        p_shown, p_swapped = p_better.reshape(2, -1)
        # One order alone carries the judge's preference for a slot, which the other pairs have
        # averaged out: a pair with one answer is missing. Rounded, because the mean of .8 and 1 -
        # .8 must be a tie in floating point too.
        p_better = np.round((p_shown + 1 - p_swapped) / 2, 12)
        one, other = points(p_shown), 1 - points(p_swapped)
        unanimous = np.where(one == other, one, np.where(np.isnan(p_better), np.nan, 0.5))
        wins = points(p_better) if order == "average" else unanimous
    first, second = np.array(duels).T
    return (
        two_sided(first, second, wins, completions=m),
        two_sided(first, second, p_better, completions=m),
    )
