"""Score, then duel: ratings pick the few that are worth comparing."""

from itertools import combinations
from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.ranking.orders import in_orders
from prefine.ranking.protocol import Duel, Outcome, Rate, Strategy, strategy
from prefine.ranking.strategies.pointwise import by_rating
from prefine.ranking.tournament import by_copeland, points, two_sided


def _max_asks(m: int, *, k: int = 4) -> int:
    """A rating each, and every ordered pair of the top k."""
    top = min(k, m)
    return m + top * (top - 1)


@strategy(
    guarantees={"best"},
    max_asks=_max_asks,
    rounds=lambda m: 2,
    asks=("ratings", "duels"),
    max_ratings=lambda m: m,
)
def score_then_duel(num_completions: int, *, k: Annotated[int, Field(ge=2)] = 4) -> Strategy:
    """Find the best of M completions: ratings pick the top k, and duels among them decide.

    All ordered pairs of the top k meet. Equal ratings at the edge of the top k: the lower index is
    in. The champion has the highest Copeland score, both orders of each pair counted (1 for a win,
    1/2 for a tie, 0 for a loss, the mean over both); then the highest mean P(better), then the
    highest rating, then the lowest index.

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
    if k < 2:
        raise ValueError(f"score_then_duel needs at least 2 completions to duel, got k = {k}")
    return _play(num_completions, k)


def _play(m: int, k: int) -> Strategy:
    ratings = yield [Rate(i) for i in range(m)]
    top = by_rating(ratings)[:k]
    if len(top) < 2:
        return Outcome()
    pairs = list(combinations(range(len(top)), 2))
    answers = yield [*in_orders([Duel(top[i], top[j]) for i, j in pairs], "both")]
    # What is not there becomes NaN, and so does all that is made of it.
    p_shown, p_swapped = np.array(answers, dtype=np.float64).reshape(2, -1)
    first, second = np.array(pairs).T
    wins, chances = (points(p_shown) + points(1 - p_swapped)) / 2, (p_shown + 1 - p_swapped) / 2
    ranked = by_copeland(
        two_sided(first, second, wins, completions=len(top)),
        two_sided(first, second, chances, completions=len(top)),
    )
    # `top` is in the order that breaks ties.
    return Outcome(champion=top[ranked[0] if ranked else 0])
