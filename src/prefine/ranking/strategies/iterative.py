"""Iterative pairwise ranking: the champion meets each challenger in turn."""

from prefine.ranking.orders import ORDERS, Order, favoured_slot
from prefine.ranking.protocol import Outcome, Strategy, strategy


def _max_asks(m: int, *, order: Order = "lazy") -> int:
    """The most calls for m completions."""
    return (m - 1) * ORDERS[order].max_asks


def _rounds(m: int, *, order: Order = "lazy") -> int:
    """The most rounds for m completions."""
    return (m - 1) * ORDERS[order].rounds


@strategy(guarantees={"best", "last_loser"}, max_asks=_max_asks, rounds=_rounds)
def iterative(
    num_completions: int, *, order: Order = "lazy", first_slot_bias: float = 0.0
) -> Strategy:
    """Find the best of M completions with M - 1 duels of a champion with each other one.

    The champion, at first number 0, meets 1, 2, … in turn. `last_loser` is the loser of the last
    duel that the final champion won; by the tie rule of the order policies, a champion that stays
    has won. A duel without a verdict is passed over: its challenger has not lost. If no duel has a
    verdict, nothing was found and every field of the outcome is None.

    Args:
        num_completions: M, at least 2. Their order should be random: an early candidate has to win
            more duels.
        order: How often, and in which order, the two of a duel are shown.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.

    Raises:
        ValueError: M is below 2.
    Source: our reading of arXiv:2411.05875.
    """
    policy, favoured = ORDERS[order].policy, favoured_slot(first_slot_bias)
    champion = 0
    last_loser: int | None = None
    for challenger in range(1, num_completions):
        won = yield from policy(champion, challenger, favoured=favoured)
        if won is None:
            continue
        if won:
            champion, last_loser = challenger, champion
        else:
            last_loser = challenger
    return Outcome() if last_loser is None else Outcome(champion=champion, last_loser=last_loser)
