"""Minimum and maximum: the cheapest way to the best and the worst one."""

from prefine.ranking.orders import ORDERS, Order, balanced, together
from prefine.ranking.protocol import Outcome, Strategy, strategy
from prefine.ranking.strategies.knockout import bracket


def _max_asks(m: int, *, order: Order = "lazy") -> int:
    """The most calls for m completions: ceil(1.5 m) - 2 duels."""
    return ((3 * m + 1) // 2 - 2) * ORDERS[order].max_asks


def _rounds(m: int, *, order: Order = "lazy") -> int:
    """The most rounds for m completions: ceil(log2 m) rounds of duels, and one more for odd m."""
    pairing = 1 + m % 2
    return (pairing + ((m + 1) // 2 - 1).bit_length()) * ORDERS[order].rounds


@strategy(guarantees={"best", "worst"}, max_asks=_max_asks, rounds=_rounds)
def minmax(
    num_completions: int, *, order: Order = "lazy", first_slot_bias: float = 0.0
) -> Strategy:
    """Find the best and the worst of M completions with 1.5 M - 2 duels for even M.

    No fewer can do it. Neighbours meet; the winners play a knockout for the best, and at the same
    time the losers one for the worst, in which the loser goes on. For odd M the last one first
    meets the winner of the first duel, and takes its place or joins the losers: at most 1.5 (M - 1)
    duels, one less if it wins.

    In a duel the lower index is the champion: it counts as the better one unless it is beaten. A
    duel without a verdict is nobody's loss: when neighbours meet, the lower index goes to the
    winners and the other one to the losers; in a knockout the one with more verdicts in favour of
    going on goes on, else the champion (among losers, the other one). The champion is None if it
    has not won a duel, the worst one if it has not lost one.

    Args:
        num_completions: M, at least 2.
        order: How often, and in which order, the two of a duel are shown.
        first_slot_bias: The judge's known preference for the first slot [logit]; only its sign
            matters here.

    Raises:
        ValueError: M is below 2.
    Source: Pohl 1972, A sorting problem and its complexity.
    """
    m = num_completions
    duel = balanced(m, order, first_slot_bias)
    beaten: list[list[int]] = [[] for _ in range(m)]
    beaten_by: list[list[int]] = [[] for _ in range(m)]
    winners: list[int] = []
    losers: list[int] = []

    def note(champion: int, challenger: int, won: bool | None) -> tuple[int, int]:
        """The better and the worse of two, as far as is known."""
        better, worse = (challenger, champion) if won else (champion, challenger)
        if won is not None:
            beaten[better].append(worse)
            beaten_by[worse].append(better)
        return better, worse

    starts = range(0, m - 1, 2)
    results = yield from together([duel(i, i + 1) for i in starts])
    for i, won in zip(starts, results, strict=True):
        better, worse = note(i, i + 1, won)
        winners.append(better)
        losers.append(worse)
    if m % 2:
        late = m - 1
        has_won = bool(beaten[winners[0]])
        better, worse = note(winners[0], late, (yield from duel(winners[0], late)))
        # Whoever has won a duel cannot be the worst.
        if worse == late or not has_won:
            losers.append(worse)
        winners[0] = better
    champion, worst = yield from together(
        [
            bracket(winners, duel, stays=min, put_out=beaten),
            bracket(losers, duel, stays=max, put_out=beaten_by),
        ]
    )
    return Outcome(
        champion=champion if beaten[champion] else None, worst=worst if beaten_by[worst] else None
    )
