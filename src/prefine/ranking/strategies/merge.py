"""Merge sort: sorted halves are merged, all merges of one level side by side."""

from collections.abc import Generator
from itertools import pairwise

from prefine.ranking.orders import ORDERS, Duels, Order, balanced, together
from prefine.ranking.protocol import Answers, Ask, Strategy, strategy
from prefine.ranking.tournament import sorted_outcome


def _max_asks(m: int, *, order: Order = "lazy") -> int:
    """The most calls for m completions: m ceil(log2 m) - 2^ceil(log2 m) + 1 duels."""
    levels = (m - 1).bit_length()
    return (m * levels - (1 << levels) + 1) * ORDERS[order].max_asks


def _rounds(m: int, *, order: Order = "lazy") -> int:
    """The most rounds for m completions: the longest merges of every level, about 2 m duels."""
    duels, longest = 0, m
    while longest > 1:
        duels += longest - 1
        longest = (longest + 1) // 2
    return duels * ORDERS[order].rounds


@strategy(guarantees={"best", "worst", "order"}, max_asks=_max_asks, rounds=_rounds)
def merge(num_completions: int, *, order: Order = "lazy", first_slot_bias: float = 0.0) -> Strategy:
    """Sort M completions by merging halves: at most M log2 M duels, in about 2 M rounds of them.

    It believes that verdicts are transitive: one wrong turn misplaces. In a duel the one of the
    lower indices is the champion; the other one must win to come first.

    A duel without a verdict counts as one that the champion won, while sorting goes on. In the end
    only what verdicts vouch for is in the outcome: the order if each has won a duel against its
    successor, else the first and the last one if wins lead from it to all others, or from them to
    it.

    Args:
        num_completions: M, at least 2.
        order: How often, and in which order, the two of a duel are shown.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.

    Raises:
        ValueError: M is below 2.
    """
    duel = balanced(num_completions, order, first_slot_bias)
    wins: set[tuple[int, int]] = set()
    levels = (num_completions - 1).bit_length()
    # Cut at i m / 2^levels, so that the runs of one level differ by one at most.
    cuts = [i * num_completions >> levels for i in range(2**levels + 1)]
    runs = [list(range(low, high)) for low, high in pairwise(cuts)]
    while len(runs) > 1:
        halves = zip(runs[::2], runs[1::2], strict=True)
        runs = yield from together([_merged(upper, lower, wins, duel) for upper, lower in halves])
    return sorted_outcome(runs[0], wins)


def _merged(
    one: list[int], other: list[int], wins: set[tuple[int, int]], duel: Duels
) -> Generator[list[Ask], Answers, list[int]]:
    """The two sorted runs as one; what duels have said is added to `wins`."""
    found: list[int] = []
    i = j = 0
    while i < len(one) and j < len(other):
        champion, challenger = one[i], other[j]
        won = yield from duel(champion, challenger)
        if won:
            wins.add((challenger, champion))
            found.append(challenger)
            j += 1
        else:
            if won is not None:
                wins.add((champion, challenger))
            found.append(champion)
            i += 1
    return found + one[i:] + other[j:]
