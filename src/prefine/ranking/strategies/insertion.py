"""Binary insertion: each completion is put into its place among those before it."""

from prefine.ranking.orders import ORDERS, Order, balanced
from prefine.ranking.protocol import Strategy, strategy
from prefine.ranking.tournament import sorted_outcome


def _duels(m: int) -> int:
    """The most duels: a place among n is found with floor(log2 n) + 1 of them."""
    return sum(n.bit_length() for n in range(1, m))


def _max_asks(m: int, *, order: Order = "lazy") -> int:
    """The most calls for m completions."""
    return _duels(m) * ORDERS[order].max_asks


def _rounds(m: int, *, order: Order = "lazy") -> int:
    """The most rounds for m completions: every duel waits for the one before it."""
    return _duels(m) * ORDERS[order].rounds


@strategy(guarantees={"best", "worst", "order"}, max_asks=_max_asks, rounds=_rounds)
def insertion(
    num_completions: int, *, order: Order = "lazy", first_slot_bias: float = 0.0
) -> Strategy:
    """Sort M completions by binary insertion, about M log2 M duels, one after another.

    It believes that verdicts are transitive: one wrong turn misplaces. In a duel the one that has
    its place is the champion; a newcomer that does not win goes below it.

    A duel without a verdict counts as one that the newcomer did not win, while sorting goes on. In
    the end only what verdicts vouch for is in the outcome: the order if each has won a duel against
    its successor, else the first and the last one if wins lead from it to all others, or from them
    to it.

    Args:
        num_completions: M, at least 2.
        order: How often, and in which order, the two of a duel are shown.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.

    Raises:
        ValueError: M is below 2.
    """
    duel = balanced(num_completions, order, first_slot_bias)
    placed = [0]
    wins: set[tuple[int, int]] = set()
    for newcomer in range(1, num_completions):
        low, high = 0, len(placed)
        while low < high:
            middle = (low + high) // 2
            champion = placed[middle]
            won = yield from duel(champion, newcomer)
            if won:
                wins.add((newcomer, champion))
                high = middle
            else:
                if won is not None:
                    wins.add((champion, newcomer))
                low = middle + 1
        placed.insert(low, newcomer)
    return sorted_outcome(placed, wins)
