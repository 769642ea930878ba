"""Circulant: everyone meets the next k around a circle, in one round."""

from typing import Annotated

from pydantic import Field

from prefine.ranking.fitting.bradley_terry import PRIOR_SD
from prefine.ranking.orders import SingleOrBoth, in_orders
from prefine.ranking.protocol import Duel, Strategy, strategy
from prefine.ranking.strategies.duel_history import DuelHistory


def _max_asks(m: int, *, k: int = 2, order: SingleOrBoth = "single") -> int:
    """The number of calls for m completions."""
    return len(in_orders(circle(m, k), order))


@strategy(guarantees={"order", "scores"}, max_asks=_max_asks, rounds=lambda m: 1)
def circulant(
    num_completions: int,
    *,
    k: Annotated[int, Field(ge=1)] = 2,
    order: SingleOrBoth = "single",
    first_slot_bias: float = 0.0,
    prior_sd: Annotated[float, Field(gt=0)] = PRIOR_SD,
) -> Strategy:
    """Score M completions by Bradley-Terry from k M duels in one round.

    Number i meets i + 1, …, i + k around a circle. Everyone is first in k of its 2 k duels, so a
    judge's slot preference helps nobody. No pair meets twice: for 2 k >= M it is a round robin, all
    M (M - 1) / 2 pairs, in which everyone is first in half of its duels (M odd) or within 1/2 of
    that (M even).

    The order is that of the scores; with few duels per completion its top is no safe choice of a
    best one. If a completion has no answered duel, its place is unknown and nothing is returned.

    Args:
        num_completions: M, at least 2.
        k: Duels per completion and slot; 2 costs what `top_two` does.
        order: "single" asks each duel once. "both" asks both orders, two calls; both answers enter
            the fit.
        first_slot_bias: The judge's known preference for the first slot [logit], taken off in the
            fit.
        prior_sd: Standard deviation of a score a priori [logit].

    Raises:
        ValueError: M is below 2 or k below 1.
    """
    if k < 1:
        raise ValueError(f"circulant needs k of at least 1, got {k}")
    return _one_round(num_completions, k, order, first_slot_bias, prior_sd)


def _one_round(
    m: int, k: int, order: SingleOrBoth, first_slot_bias: float, prior_sd: float
) -> Strategy:
    history = DuelHistory(m, first_slot_bias, prior_sd)
    yield from history.ask(in_orders(circle(m, k), order))
    return history.outcome(ordered=True)


def circle(num_completions: int, k: int) -> list[Duel]:
    """The duels: k M while 2 k < M, else every pair once.

    For even M, i and i + M / 2 meet once, the lower first.
    """
    m = num_completions
    duels = [
        Duel(i, (i + step) % m) for i in range(m) for step in range(1, min(k, (m - 1) // 2) + 1)
    ]
    if m % 2 == 0 and 2 * k >= m:
        duels += [Duel(i, i + m // 2) for i in range(m // 2)]
    return duels
