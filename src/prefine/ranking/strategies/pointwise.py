"""Pointwise: every completion gets a rating, and the ratings are the ranking."""

from prefine.ranking.protocol import Answers, Outcome, Rate, Strategy, strategy


@strategy(
    guarantees={"best", "worst", "order", "scores"},
    max_asks=lambda m: m,
    rounds=lambda m: 1,
    asks=("ratings",),
)
def pointwise(num_completions: int) -> Strategy:
    """Rank M completions by one rating each, asked in one round; equal ratings by index.

    If ratings failed, champion and worst are those of the others, `order` and `scores` are None. A
    rating alone says nothing: with fewer than two of them every field is None.

    Args:
        num_completions: M, at least 2.

    Raises:
        ValueError: M is below 2.
    """
    ratings = yield [Rate(i) for i in range(num_completions)]
    order = by_rating(ratings)
    if len(order) < 2:
        return Outcome()
    complete = len(order) == num_completions
    return Outcome(
        champion=order[0],
        worst=order[-1],
        order=tuple(order) if complete else None,
        scores=tuple(rating for rating in ratings if rating is not None) if complete else None,
    )


def by_rating(ratings: Answers) -> list[int]:
    """The completions that have a rating, best first; equal ratings by index."""
    rated = [(-rating, i) for i, rating in enumerate(ratings) if rating is not None]
    return [i for _, i in sorted(rated)]
