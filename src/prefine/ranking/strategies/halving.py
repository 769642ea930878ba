"""Halving: rounds of duels among the survivors, of whom the better half goes on."""

from typing import Annotated

from pydantic import Field

from prefine.ranking.fitting.bradley_terry import PRIOR_SD
from prefine.ranking.protocol import Duel, Strategy, strategy
from prefine.ranking.strategies.duel_history import DuelHistory, best_first


def _max_asks(m: int) -> int:
    """The most calls for m completions."""
    asks = 0
    while m > 1:
        asks, m = asks + m, (m + 1) // 2
    return asks


@strategy(guarantees={"best", "scores"}, max_asks=_max_asks, rounds=lambda m: (m - 1).bit_length())
def halving(
    num_completions: int,
    *,
    first_slot_bias: float = 0.0,
    prior_sd: Annotated[float, Field(gt=0)] = PRIOR_SD,
) -> Strategy:
    """Find the best of M completions, and everyone's score, with about 2 M duels in log2 M rounds.

    In each round the S survivors stand in a circle, by standing, and everyone meets the next one;
    so all are in two duels, and first in one of them. The half (S / 2, rounded up) that goes on is
    that of the highest Bradley-Terry scores by all duels so far, but whoever has never lost goes
    before whoever has. A duel that would be a repetition is shown in the other order, or not at all
    if both orders are known.

    The best is never dropped by a judge without noise: it never loses, so it is among the unbeaten.
    Of two neighbours on the circle one has lost, to the other; so at most S / 2 are unbeaten, and
    all of them go on. (A tie counts half in the fit, and here as lost by the higher index: the
    judge's answers agree with one strict order.)

    A failed duel is missing. If a completion has no answered duel, its place is unknown: the
    champion is that of the others, and there are no scores. If no duel was answered, nothing was
    found.

    Args:
        num_completions: M, at least 2.
        first_slot_bias: The judge's known preference for the first slot [logit], taken off in the
            fit.
        prior_sd: Standard deviation of a score a priori [logit].

    Raises:
        ValueError: M is below 2.
    Source: sequential halving, Karnin, Koren and Somekh 2013.
    Deviation: the scores come from all duels so far, not from the last round's alone.
    """
    history = DuelHistory(num_completions, first_slot_bias, prior_sd)
    survivors = list(range(num_completions))
    while len(survivors) > 1:
        neighbours = zip(survivors, survivors[1:] + survivors[:1], strict=True)
        planned = [history.plan(Duel(one, other)) for one, other in neighbours]
        duels = [duel for duel in planned if duel is not None]
        if duels:
            yield from history.ask(duels)
        ranked = best_first(history.scores(), survivors)
        ranked.sort(key=lambda i: not history.unbeaten[i])
        survivors = ranked[: (len(survivors) + 1) // 2]
    ranked = [*survivors, *best_first(history.scores(), range(num_completions))]
    return history.outcome(champion=next((i for i in ranked if i in history.answered), None))
