"""Swiss: neighbours by current score meet, round after round."""

from typing import Annotated

from pydantic import Field

from prefine.ranking.fitting.bradley_terry import PRIOR_SD
from prefine.ranking.orders import SingleOrBoth, in_orders
from prefine.ranking.protocol import Strategy, strategy
from prefine.ranking.strategies.duel_history import DuelHistory, best_first


def _max_asks(m: int, *, num_rounds: int | None = None, order: SingleOrBoth = "single") -> int:
    """The number of calls for m completions."""
    return (m // 2) * _rounds(m, num_rounds=num_rounds) * (1 if order == "single" else 2)


def _rounds(m: int, *, num_rounds: int | None = None) -> int:
    """The number of rounds for m completions."""
    most = 3 if m in (3, 4) else (m + 1) // 2
    wanted = (m - 1).bit_length() + 1 if num_rounds is None else num_rounds
    return max(2 if m % 2 else 1, min(most, wanted))


@strategy(guarantees={"order", "scores"}, max_asks=_max_asks, rounds=_rounds)
def swiss(
    num_completions: int,
    *,
    num_rounds: Annotated[int, Field(ge=1)] | None = None,
    order: SingleOrBoth = "single",
    first_slot_bias: float = 0.0,
    prior_sd: Annotated[float, Field(gt=0)] = PRIOR_SD,
) -> Strategy:
    """Score M completions by Bradley-Terry from rounds of M / 2 duels of neighbours by score.

    In the first round 0 meets 1, 2 meets 3, …; later the best so far meets the next one that it has
    not met, and so on down. Nobody meets the same one twice. For odd M one sits out, the last by
    score of those who never did. Who was first less often is shown first.

    The order is that of the scores. If a completion has no answered duel, its place is unknown and
    nothing is returned.

    Args:
        num_completions: M, at least 2.
        num_rounds: Number of rounds; by default ceil(log2 M) + 1: after log2 M rounds at most one
            is unbeaten, and one round more is for the noise. Never above M / 2 rounded up (3 for M
            = 3 and 4): so far, whoever has met, there is always a full round without a repetition.
            At least 2 for odd M, so that who sat out plays too.
        order: "single" asks each duel once. "both" asks both orders, two calls; both answers enter
            the fit.
        first_slot_bias: The judge's known preference for the first slot [logit], taken off in the
            fit.
        prior_sd: Standard deviation of a score a priori [logit].

    Raises:
        ValueError: M is below 2 or num_rounds below 1.
    Source: arXiv:2502.14074, section on Swiss-wise iterative matchmaking.
    Deviation: the fit is the maximum a posteriori with the judge's known slot bias, not of maximum
        likelihood.
    """
    if num_rounds is not None and num_rounds < 1:
        raise ValueError(f"swiss needs at least 1 round, got {num_rounds}")
    history = DuelHistory(num_completions, first_slot_bias, prior_sd)
    return _play(num_completions, _rounds(num_completions, num_rounds=num_rounds), order, history)


def _play(m: int, num_rounds: int, order: SingleOrBoth, history: DuelHistory) -> Strategy:
    # For odd M, whoever is paired with number M sits out: a player who comes last and whom everyone
    # meets once.
    sits_out = [m] if m % 2 else []
    met: set[frozenset[int]] = set()
    for _ in range(num_rounds):
        standings = best_first(history.scores(), range(m))
        pairs = pairing([*standings, *sits_out], met)
        met.update(frozenset(pair) for pair in pairs)
        duels = [history.balanced(*pair) for pair in pairs if m not in pair]
        yield from history.ask(in_orders(duels, order))
    return history.outcome(ordered=True)


def pairing(standings: list[int], met: set[frozenset[int]]) -> list[tuple[int, int]]:
    """Neighbours that have not met, everyone once; the better of each pair is the former.

    From the top, each takes the nearest below that it has not met. Those left over have all met
    each other. Two of them, u and v, break up the last pair (x, y) for which u can meet x and v can
    meet y. There is one while there were fewer than n / 2 rounds, as in the proof of Dirac's
    theorem: u and v can each meet n / 2 or more of those in the at most n / 2 - 1 pairs, so for one
    pair three or more of the four duels are possible.

    Args:
        standings: An even number of players, best first.
        met: The pairs that have met; everyone was in as many as there were rounds.
    """
    pairs: list[tuple[int, int]] = []
    left = list(standings)
    over: list[int] = []
    while left:
        one = left.pop(0)
        other = next((player for player in left if frozenset((one, player)) not in met), None)
        if other is None:
            over.append(one)
        else:
            left.remove(other)
            pairs.append((one, other))
    while over:
        v, u = over.pop(), over.pop()
        x, y = next(
            (x, y)
            for pair in reversed(pairs)
            for x, y in (pair, pair[::-1])
            if frozenset((u, x)) not in met and frozenset((v, y)) not in met
        )
        pairs = [pair for pair in pairs if x not in pair] + [(x, u), (y, v)]
    place = {player: i for i, player in enumerate(standings)}
    return [(one, other) if place[one] < place[other] else (other, one) for one, other in pairs]
