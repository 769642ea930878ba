"""Round robin: everyone meets everyone, in one round."""

from itertools import combinations
from math import comb
from statistics import fmean
from typing import Literal

from prefine.ranking.base import Duel, Outcome, Strategy, strategy

PairOrder = Literal["single", "both", "average"]
Pair = tuple[int, int]


def _max_asks(m: int, *, order: PairOrder = "single") -> int:
    """The number of calls for m completions."""
    return comb(m, 2) * (1 if order == "single" else 2)


def _rounds(m: int, *, order: PairOrder = "single") -> int:
    """One round, whatever the number of completions."""
    return 1


@strategy(guarantees={"best", "worst", "order", "scores"}, max_asks=_max_asks, rounds=_rounds)
def round_robin(num_completions: int, *, order: PairOrder = "single") -> Strategy:
    """Rank M completions by Copeland score from all M (M - 1) / 2 duels, asked in one round.

    A completion's score is its mean over the opponents for which there is an answer: 1 for a win, 1/2 for a tie, 0 for
    a loss. Equal scores are ordered by mean P(better) over those opponents, then by index.

    A duel of which a call failed is missing: it counts for nobody. If a completion has no answered duel, its place is
    unknown: champion and worst are those of the others, `order` and `scores` are None. If no duel was answered, nothing
    was found and every field is None.

    `cyclic_triads` counts the three-cycles of strict wins; a triad with a tie in it is no cycle. With a missing duel
    the number is unknown: None.

    Args:
        num_completions: M, at least 2.
        order: "single" asks each pair once, every completion being shown first in half of its duels, or the nearest
            whole number. "both" asks both orders; a win needs both of them, all else is a tie. "average" asks both
            orders and takes the mean of the two P(better); exactly 1/2 is a tie.

    Raises:
        ValueError: M is below 2.
    Source: Copeland's method; cyclic triads C(n, 3) - sum C(out-degree, 2) of a tournament.
    """
    if num_completions < 2:
        raise ValueError(f"a round robin needs at least 2 completions, got {num_completions}")
    return _play(num_completions, order)


def balanced_duels(num_completions: int) -> list[Duel]:
    """Every pair once, each completion first in half of its duels (M odd) or within 1/2 of that (M even).

    The scheme is a circle: each is shown first against the half of the others that follows it. For even M the one
    opposite is left over, and the lower of the two is first.
    """
    m = num_completions
    duels = [Duel(i, (i + step) % m) for i in range(m) for step in range(1, (m + 1) // 2)]
    if m % 2 == 0:
        duels += [Duel(i, i + m // 2) for i in range(m // 2)]
    return duels


def _play(m: int, order: PairOrder) -> Strategy:
    duels = balanced_duels(m)
    if order == "single":
        answers = yield list(duels)
        singles = {(d.first, d.second): p for d, p in zip(duels, answers, strict=True) if p is not None}
        return _outcome(m, singles, {pair: _points(p) for pair, p in singles.items()})
    answers = yield [*duels, *(Duel(d.second, d.first) for d in duels)]
    means: dict[Pair, float] = {}
    points: dict[Pair, float] = {}
    for duel, p_shown, p_swapped in zip(duels, answers[: len(duels)], answers[len(duels) :], strict=True):
        if p_shown is None or p_swapped is None:
            # One order alone carries the judge's preference for a slot, which the other pairs have averaged out.
            continue
        # Rounded, because the mean of .8 and 1 - .8 must be a tie in floating point too.
        means[duel] = round((p_shown + 1 - p_swapped) / 2, 12)
        one, other = _points(p_shown), 1 - _points(p_swapped)
        points[duel] = _points(means[duel]) if order == "average" else one if one == other else 0.5
    return _outcome(m, means, points)


def _points(p: float) -> float:
    return 0.5 if p == 0.5 else float(p > 0.5)


def _outcome(m: int, means: dict[Pair, float], points: dict[Pair, float]) -> Outcome:
    """The outcome of P(first better) and points for the first, by answered pair."""
    answered = sorted({index for pair in points for index in pair})
    if not answered:
        return Outcome()
    scores = {i: fmean(_of(i, points)) for i in answered}
    mean_p = {i: fmean(_of(i, means)) for i in answered}
    # Rounding must not break a tie that the index is there to break.
    ranked = sorted(answered, key=lambda i: (-round(scores[i], 12), -round(mean_p[i], 12), i))
    complete = len(answered) == m
    return Outcome(
        champion=ranked[0],
        worst=ranked[-1],
        order=tuple(ranked) if complete else None,
        scores=tuple(scores[i] for i in range(m)) if complete else None,
        cyclic_triads=_cyclic_triads(m, points) if len(points) == comb(m, 2) else None,
    )


def _of(index: int, values: dict[Pair, float]) -> list[float]:
    """The values of all pairs with this completion, seen from its side."""
    return [
        value if first == index else 1 - value for (first, second), value in values.items() if index in (first, second)
    ]


def _cyclic_triads(m: int, points: dict[Pair, float]) -> int:
    """The number of three-cycles of strict wins when every pair is answered."""
    wins = {pair if value == 1 else pair[::-1] for pair, value in points.items() if value != 0.5}
    if len(wins) == comb(m, 2):
        out_degrees = [sum(winner == index for winner, _ in wins) for index in range(m)]
        return comb(m, 3) - sum(comb(degree, 2) for degree in out_degrees)
    # With ties the out-degrees no longer tell: look at every triad.
    return sum(
        {(a, b), (b, c), (c, a)} <= wins or {(b, a), (c, b), (a, c)} <= wins for a, b, c in combinations(range(m), 3)
    )
