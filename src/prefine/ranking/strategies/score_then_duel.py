"""Score, then duel: ratings pick the few that are worth comparing."""

import math
from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.ranking.protocol import Duel, Outcome, Rate, Strategy, strategy
from prefine.ranking.strategies.pointwise import by_rating
from prefine.ranking.strategies.tournament import copeland, points, two_sided


def _max_asks(m: int, *, k: int = 4) -> int:
    """A rating each, and every ordered pair of the top k."""
    top = min(k, m)
    return m + top * (top - 1)


def _max_ratings(m: int) -> int:
    """One of each."""
    return m


def _rounds(m: int) -> int:
    """Ratings, then duels."""
    return 2


@strategy(
    guarantees={"best"},
    max_asks=_max_asks,
    rounds=_rounds,
    asks=("ratings", "duels"),
    max_ratings=_max_ratings,
)
def score_then_duel(num_completions: int, *, k: Annotated[int, Field(ge=2)] = 4) -> Strategy:
    """Find the best of M completions: ratings pick the top k, and duels of all ordered pairs among them decide.

    Equal ratings at the edge of the top k: the lower index is in. The champion has the highest
    Copeland score, both orders of each pair counted (1 for a win, 1/2 for a tie, 0 for a loss, the
    mean over both); then the highest mean P(better), then the highest rating, then the lowest
    index.

    A completion whose rating failed cannot be in the top k. If a call of a duel failed, the pair is
    missing in both orders, since one order alone carries the judge's preference for a slot; a score
    is the mean over the pairs that are there, and who has none cannot be the champion. If no pair
    is there, the highest rating decides. With fewer than two ratings no duel is asked, nothing was
    found, and every field of the outcome is None.

    Args:
        num_completions: M, at least 2.
        k: How many meet in duels; all of them, where there are fewer.

    Raises:
        ValueError: M is below 2, or k is.
    """
    if num_completions < 2:
        raise ValueError(f"score_then_duel needs at least 2 completions, got {num_completions}")
    if k < 2:
        raise ValueError(f"score_then_duel needs at least 2 completions to duel, got k = {k}")
    return _play(num_completions, k)


def _play(m: int, k: int) -> Strategy:
    ratings = yield [Rate(i) for i in range(m)]
    top = by_rating(ratings)[:k]
    if len(top) < 2:
        return Outcome()
    pairs = list(combinations(range(len(top)), 2))
    shown = [Duel(top[i], top[j]) for i, j in pairs]
    answers = yield [*shown, *(Duel(second, first) for first, second in shown)]
    # What is not there becomes NaN, and so does all that is made of it.
    p_shown, p_swapped = np.array(answers, dtype=np.float64).reshape(2, -1)
    first, second = np.array(pairs).T
    scores = copeland(
        two_sided(
            first, second, (points(p_shown) + points(1 - p_swapped)) / 2, completions=len(top)
        )
    )
    chances = copeland(
        two_sided(first, second, (p_shown + 1 - p_swapped) / 2, completions=len(top))
    )
    # Rounded, because equal means must be equal in floating point too; `top` is in the order that
    # breaks ties.
    ranked = sorted(
        (-round(score, 12), -round(chance, 12), place)
        for place, (score, chance) in enumerate(zip(scores.tolist(), chances.tolist(), strict=True))
        if not math.isnan(score)
    )
    return Outcome(champion=top[ranked[0][2] if ranked else 0])
