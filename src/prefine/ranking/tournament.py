"""Tables of duels: Copeland scores and cycles; and how far two orders are apart."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from prefine.ranking.protocol import Outcome

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]


def points(p_better: npt.ArrayLike) -> Floats:
    """1 for a win, 1/2 for a tie (P(better) exactly 1/2), 0 for a loss; NaN stays NaN."""
    return 0.5 + 0.5 * np.sign(np.asarray(p_better, dtype=np.float64) - 0.5)


def two_sided(first: Indices, second: Indices, value: Floats, *, completions: int) -> Floats:
    """Return the table [M, M] with `value` for the first of a pair and 1 - `value` for the second.

    Args:
        first: Index of one of the pair [D].
        second: Index of the other one [D].
        value: Of the first against the second [D]; NaN is missing. No pair may come twice.
        completions: M. Pairs that do not come, and the diagonal, are NaN.
    """
    table = np.full((completions, completions), np.nan)
    table[first, second] = value
    table[second, first] = 1 - value
    return table


def copeland(table: Floats) -> Floats:
    """Each one's mean over the opponents with a value [M]; NaN where there is none.

    With points (1, 1/2, 0) this is Copeland's score as a share of the opponents; with P(better) it
    is the mean of that.

    Args:
        table: Of each against each [M, M]; NaN is missing. The diagonal is not looked at.
    """
    met = ~np.isnan(table)
    np.fill_diagonal(met, False)
    opponents = met.sum(axis=1)
    total = np.where(met, table, 0.0).sum(axis=1)
    # Divided only where there is somebody: a warning of numpy's would be the user's to read.
    means = np.full(len(table), np.nan)
    np.divide(total, opponents, out=means, where=opponents > 0)
    return means


def by_copeland(wins: Floats, p_better: Floats) -> list[int]:
    """Those with a score, best first: by Copeland score, then by mean P(better), then by index.

    Args:
        wins: Points of each against each [M, M]; NaN is missing.
        p_better: P(better) of each against each [M, M].
    """
    # Rounding must not break a tie that the index is there to break.
    scores, chances = (np.round(copeland(table), 12).tolist() for table in (wins, p_better))
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    return sorted(known, key=lambda i: (-scores[i], -chances[i], i))


def cyclic_triads(table: Floats) -> int:
    """Count the three-cycles of strict wins.

    A triad with a tie or a missing duel in it is no cycle. Without ties and missing duels it is
    C(M, 3) - sum C(wins, 2) (Kendall and Babington Smith, 1940).

    Args:
        table: Points of each against each [M, M]: 1 is a win.
    """
    wins = (table == 1).astype(np.float64)
    # A closed walk of three steps; each cycle is walked from each of its three.
    return round(float(np.sum((wins @ wins) * wins.T))) // 3


def kendall_distance(order_a: Sequence[int], order_b: Sequence[int]) -> int:
    """Count the pairs that two orders rank oppositely: 0 if equal, C(M, 2) if reversed.

    Raises:
        ValueError: They are not orders of the same things.
    """
    place = {item: number for number, item in enumerate(order_a)}
    if len(place) != len(order_a) or len(order_b) != len(order_a) or place.keys() != set(order_b):
        raise ValueError(f"{list(order_a)} and {list(order_b)} are not orders of the same things")
    places = np.array([place[item] for item in order_b])
    return int(np.triu(places[:, None] > places[None, :]).sum())


def sorted_outcome(order: Sequence[int], wins: set[tuple[int, int]]) -> Outcome:
    """The outcome of a sort: the part of its order that verdicts vouch for.

    The order is known if each has won a duel against its successor. Where a duel without a verdict
    has left that open, the champion is known if wins lead from the first one, over whomever, to
    everybody else; the worst one if wins lead from everybody to the last one.

    Args:
        order: Best first.
        wins: (winner, loser) of every duel with a verdict.
    """
    first, last = order[0], order[-1]
    if all(pair in wins for pair in pairwise(order)):
        return Outcome(champion=first, worst=last, order=tuple(order))
    losses = {(loser, winner) for winner, loser in wins}
    return Outcome(
        champion=first if len(_reached(first, wins)) == len(order) else None,
        worst=last if len(_reached(last, losses)) == len(order) else None,
    )


def _reached(start: int, steps: set[tuple[int, int]]) -> set[int]:
    found, open_ = {start}, [start]
    while open_:
        here = open_.pop()
        new = {to for from_, to in steps if from_ == here} - found
        found |= new
        open_ += new
    return found
