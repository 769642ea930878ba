"""Pointwise: every completion gets a rating, and the ratings are the ranking."""

from prefine.ranking.protocol import Outcome, Rate, Strategy, strategy


def _max_asks(m: int) -> int:
    """One rating each."""
    return m


def _rounds(m: int) -> int:
    """One round, whatever the number of completions."""
    return 1


@strategy(
    guarantees={"best", "worst", "order", "scores"},
    max_asks=_max_asks,
    rounds=_rounds,
    asks=("ratings",),
)
def pointwise(num_completions: int) -> Strategy:
    """Rank M completions by one rating each, asked in one round; equal ratings are ordered by index.

    If ratings failed, champion and worst are those of the others, `order` and `scores` are None. A
    rating alone says
    nothing: with fewer than two of them every field is None.

    Args:
        num_completions: M, at least 2.

    Raises:
        ValueError: M is below 2.
    """
    if num_completions < 2:
        raise ValueError(
            f"a ranking by ratings needs at least 2 completions, got {num_completions}"
        )
    return _rate(num_completions)


def by_rating(ratings: list[float | None]) -> list[int]:
    """The completions that have a rating, best first; equal ratings by index."""
    rated = [(-rating, i) for i, rating in enumerate(ratings) if rating is not None]
    return [i for _, i in sorted(rated)]


def _rate(m: int) -> Strategy:
    ratings = yield [Rate(i) for i in range(m)]
    order = by_rating(ratings)
    if len(order) < 2:
        return Outcome()
    complete = len(order) == m
    return Outcome(
        champion=order[0],
        worst=order[-1],
        order=tuple(order) if complete else None,
        scores=tuple(rating for rating in ratings if rating is not None) if complete else None,
    )
