"""Round robin: everyone meets everyone, in one round."""

import math
from dataclasses import replace
from functools import cache
from math import comb
from typing import Literal, NamedTuple

import numpy as np

from prefine.ranking.fitting.bradley_terry import PRIOR_SD
from prefine.ranking.protocol import Duel, Outcome, Strategy, strategy
from prefine.ranking.strategies.circulant import circle
from prefine.ranking.strategies.duel_history import DuelHistory
from prefine.ranking.strategies.tournament import (
    Floats,
    Indices,
    copeland,
    cyclic_triads,
    points,
    two_sided,
)

PairOrder = Literal["single", "both", "average"]
ScoreKind = Literal["copeland", "bradley_terry"]


def _max_asks(m: int, *, order: PairOrder = "single") -> int:
    """The number of calls for m completions."""
    return comb(m, 2) * (1 if order == "single" else 2)


def _rounds(m: int) -> int:
    """One round, whatever the number of completions."""
    return 1


@strategy(guarantees={"best", "worst", "order", "scores"}, max_asks=_max_asks, rounds=_rounds)
def round_robin(
    num_completions: int, *, order: PairOrder = "single", scores: ScoreKind = "copeland"
) -> Strategy:
    """Rank M completions from all M (M - 1) / 2 duels, asked in one round.

    A completion's Copeland score is its mean over the opponents for which there is an answer: 1 for
    a win, 1/2 for a tie, 0 for a loss. Equal scores are ordered by mean P(better) over those
    opponents, then by index. Bradley-Terry scores are log-odds with standard errors; of scores that
    differ by less than the fit's accuracy the lower index is first.

    A duel of which a call failed is missing: it counts for nobody. If a completion has no answered
    duel, its place is
    unknown: champion and worst are those of the others, `order` and `scores` are None. If no duel
        was answered, nothing
    was found and every field is None.

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
    if num_completions < 2:
        raise ValueError(f"a round robin needs at least 2 completions, got {num_completions}")
    return _play(
        num_completions,
        order,
        None if scores == "copeland" else DuelHistory(num_completions, 0.0, PRIOR_SD),
    )


def balanced_duels(num_completions: int) -> list[Duel]:
    """Every pair once, each completion first in half of its duels (M odd) or within 1/2 of that (M even).

    The scheme is a circle: each is shown first against the half of the others that follows it. For
    even M the one opposite is left over, and the lower of the two is first.
    """
    return circle(num_completions, num_completions // 2)


class _RoundSchedule(NamedTuple):
    """The balanced duels, and the indices of their first and second [D]."""

    duels: tuple[Duel, ...]
    first: Indices
    second: Indices


@cache
def _schedule(m: int) -> _RoundSchedule:
    duels = balanced_duels(m)
    first, second = np.array(duels).T
    return _RoundSchedule(tuple(duels), first, second)


def _play(m: int, order: PairOrder, played: DuelHistory | None) -> Strategy:
    """Without `played` the scores are Copeland's."""
    duels, first, second = _schedule(m)
    asks = list(duels) if order == "single" else [*duels, *(Duel(b, a) for a, b in duels)]
    answers = yield list(asks)
    if order == "single":
        # What is not there becomes NaN, and so does all that is made of it.
        p_better = np.array(answers, dtype=np.float64)
        wins = points(p_better)
    else:
        p_shown, p_swapped = np.array(answers, dtype=np.float64).reshape(2, -1)
        # One order alone carries the judge's preference for a slot, which the other pairs have
        # averaged out: a pair with one answer is missing. Rounded, because the mean of .8 and 1 -
        # .8 must be a tie in floating point too.
        p_better = np.round((p_shown + 1 - p_swapped) / 2, 12)
        one, other = points(p_shown), 1 - points(p_swapped)
        unanimous = np.where(one == other, one, np.where(np.isnan(p_better), np.nan, 0.5))
        wins = points(p_better) if order == "average" else unanimous
    found = _outcome(
        two_sided(first, second, wins, completions=m),
        two_sided(first, second, p_better, completions=m),
    )
    if played is None or found.scores is None:
        return found
    played.take(asks, answers)
    fitted = played.outcome(ordered=True)
    assert fitted.order is not None, "everyone has an answered duel"
    return replace(
        fitted, champion=fitted.order[0], worst=fitted.order[-1], cyclic_triads=found.cyclic_triads
    )


def _outcome(wins: Floats, p_better: Floats) -> Outcome:
    """The outcome of points and of P(better), of each against each [M, M]."""
    m = len(wins)
    scores, chances = copeland(wins).tolist(), copeland(p_better).tolist()
    # Rounding must not break a tie that the index is there to break.
    ranked = sorted(
        (-round(scores[i], 12), -round(chances[i], 12), i)
        for i in range(m)
        if not math.isnan(scores[i])
    )
    if not ranked:
        return Outcome()
    complete = len(ranked) == m
    missing = int(np.isnan(wins).sum()) - m
    return Outcome(
        champion=ranked[0][2],
        worst=ranked[-1][2],
        order=tuple(i for *_, i in ranked) if complete else None,
        scores=tuple(scores) if complete else None,
        cyclic_triads=None if missing else cyclic_triads(wins),
    )
