"""Against one baseline: every completion meets the same one, and the log-odds are its score."""

import math
from typing import Annotated

from pydantic import Field

from prefine.ranking.orders import SingleOrBoth
from prefine.ranking.protocol import Answers, Duel, Outcome, Strategy, strategy
from prefine.ranking.strategies.pointwise import by_rating

_BASELINE = 0


def _max_asks(m: int, *, order: SingleOrBoth = "single") -> int:
    """The number of calls for m completions."""
    return (m - 1) * (2 if order == "both" else 1)


@strategy(guarantees={"order", "scores"}, max_asks=_max_asks, rounds=lambda m: 1)
def against_baseline(
    num_completions: int,
    *,
    order: SingleOrBoth = "single",
    clip: Annotated[float, Field(gt=0, lt=0.5)] = 0.05,
) -> Strategy:
    """Score M completions by the log-odds of beating one of them, in one round of M - 1 duels.

    The baseline is the first completion, a random one, as the stage shuffles them; its own score is
    0. Asked once, completions of odd index are shown first. The order is that of the scores; hard
    verdicts leave many equal, so its top is no safe choice of a best one. If a duel failed, nothing
    is returned.

    Args:
        num_completions: M, at least 2.
        order: "single" asks each duel once, "both" in both orders, two calls, whose mean counts; if
            one of them failed, the duel did.
        clip: Probabilities are kept at least this far from 0 and 1, as a hard verdict has no finite
            log-odds. Ours.

    Raises:
        ValueError: M is below 2.
    Source: arXiv:2309.06657, the reward of a pairwise judge: logit P(y beats y_b), y_b one random
        sample of the policy.
    """
    challengers = range(1, num_completions)
    asks = [duel for i in challengers for duel in _duels(i, order)]
    answers = yield list(asks)
    each = len(asks) // len(challengers)
    scores: Answers = [0.0]
    for place, i in enumerate(challengers):
        chances = [
            None if p is None else p if duel.first == i else 1 - p
            for duel, p in zip(
                asks[place * each : (place + 1) * each],
                answers[place * each : (place + 1) * each],
                strict=True,
            )
        ]
        answered = [p for p in chances if p is not None]
        scores.append(_log_odds(sum(answered) / each, clip) if len(answered) == each else None)
    whole = [score for score in scores if score is not None]
    if len(whole) < num_completions:
        return Outcome()
    return Outcome(order=tuple(by_rating(scores)), scores=tuple(whole), score_unit="log_odds")


def _duels(challenger: int, order: SingleOrBoth) -> list[Duel]:
    duel = Duel(challenger, _BASELINE)
    if order == "both":
        return [duel, duel.swapped()]
    return [duel if challenger % 2 else duel.swapped()]


def _log_odds(chance: float, clip: float) -> float:
    kept = min(max(chance, clip), 1 - clip)
    return math.log(kept / (1 - kept))
