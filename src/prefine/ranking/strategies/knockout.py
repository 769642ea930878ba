"""Knockout: winners meet winners until one is left."""

from collections.abc import Callable, Generator

from prefine.ranking.orders import ORDERS, Duels, Order, balanced, together
from prefine.ranking.protocol import Answers, Ask, Outcome, Strategy, strategy


def _max_asks(m: int, *, order: Order = "lazy") -> int:
    """The most calls for m completions."""
    return (m - 1) * ORDERS[order].max_asks


def _rounds(m: int, *, order: Order = "lazy") -> int:
    """The most rounds for m completions: ceil(log2 m) rounds of duels."""
    return (m - 1).bit_length() * ORDERS[order].rounds


@strategy(guarantees={"best", "last_loser"}, max_asks=_max_asks, rounds=_rounds)
def knockout(
    num_completions: int, *, order: Order = "lazy", first_slot_bias: float = 0.0
) -> Strategy:
    """Find the best of M completions with M - 1 duels in ceil(log2 M) rounds of duels.

    The best one has to win log2 M duels, where a scan asks for up to M - 1 in a row. In a duel the
    lower index is the champion: it stays unless it is beaten. With an odd number the last one has a
    bye, and is first in the next round.

    `last_loser` is the loser of the last duel that the final champion won. A duel without a verdict
    is nobody's loss: the one with more won duels goes on, else the lower index. So the champion has
    won a duel if any had a verdict; if none had, nothing was found and every field of the outcome
    is None.

    Args:
        num_completions: M, at least 2.
        order: How often, and in which order, the two of a duel are shown.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.

    Raises:
        ValueError: M is below 2.
    """
    duel = balanced(num_completions, order, first_slot_bias)
    beaten: list[list[int]] = [[] for _ in range(num_completions)]
    champion = yield from bracket(list(range(num_completions)), duel, stays=min, put_out=beaten)
    if not beaten[champion]:
        return Outcome()
    return Outcome(champion=champion, last_loser=beaten[champion][-1])


def bracket(
    entrants: list[int],
    duel: Duels,
    *,
    stays: Callable[[int, int], int],
    put_out: list[list[int]],
) -> Generator[list[Ask], Answers, int]:
    """The one that is left when neighbours meet, round by round, and one of each two goes on.

    Args:
        entrants: By index.
        duel: Of two, champion first; True if the challenger wins.
        stays: `min` lets winners go on, `max` losers: which of two goes on if the higher index does
            not win.
        put_out: By index, those whom it has put out of this bracket (or on the way to it) by a
            verdict; extended here.
    """
    while len(entrants) > 1:
        pairs = list(zip(entrants[::2], entrants[1::2], strict=False))
        duels = [duel(min(pair), max(pair)) for pair in pairs]
        goes_on = []
        for (one, other), won in zip(pairs, (yield from together(duels)), strict=True):
            incumbent = stays(one, other)
            rival = other if incumbent == one else one
            if won is None:
                goes_on.append(
                    rival if len(put_out[rival]) > len(put_out[incumbent]) else incumbent
                )
                continue
            winner, loser = (rival, incumbent) if won else (incumbent, rival)
            put_out[winner].append(loser)
            goes_on.append(winner)
        # Whoever had a bye stands first, where it has none in the next round.
        entrants = [entrants[-1], *goes_on] if len(entrants) % 2 else goes_on
    return entrants[0]
