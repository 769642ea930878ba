"""EUBO: the next duel is the one whose better side is expected to be best, by all that the verdicts have said."""

import math
from collections.abc import Generator
from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.ranking.fitting.belief import Belief
from prefine.ranking.protocol import Answers, Ask, Duel, Strategy, duel_limit, strategy
from prefine.ranking.strategies.duel_log import DuelLog

Accuracy = Annotated[float, Field(gt=0.5, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Below so many calls per completion, and from such a bias [logit] on, a scan was a better start
# than a knockout; the promise is where going on cost calls and hardly lowered regret. All three by
# simulation, see docs/decisions/0009.
_SPARE, _BIASED = 1.5, 0.4
_PROMISE = 0.001


def _max_asks(m: int, *, limit: int | None = None) -> int:
    """The most calls for m completions. Fewer only if the strategy stops early.

    Raises:
        ValueError: `limit` is too small for m completions.
    """
    return duel_limit("eubo", m, limit, default=3 * m)


def _rounds(m: int, *, limit: int | None = None, batch: int = 1) -> int:
    """The most rounds for m completions, by either start: those of the start, and the rest of the limit in batches.

    Raises:
        ValueError: `limit` is too small for m completions, or `batch` below 1.
    """
    most = duel_limit("eubo", m, limit, default=3 * m)
    if batch < 1:
        raise ValueError(f"eubo's batch must be at least 1, got {batch}")
    start = m - 1 if most < _SPARE * m else (m - 1).bit_length()
    return start - (m - 1 - most) // batch


@strategy(guarantees={"best", "scores"}, max_asks=_max_asks, rounds=_rounds)
def eubo(
    num_completions: int,
    *,
    limit: Annotated[int, Field(ge=1)] | None = None,
    batch: Annotated[int, Field(ge=1)] = 1,
    accuracy: Accuracy = 0.75,
    order_noise: Share = 0.5,
    stop_below: Annotated[float, Field(ge=0)] = _PROMISE,
    first_slot_bias: float = 0.0,
) -> Strategy:
    """Find the best of M completions, and everyone's score, with few duels, each chosen by a belief over all.

    The belief (`ranking.belief`) starts from M - 1 duels in which all but one lose: a knockout; or,
    when the limit is below 1.5 M and the judge favours a slot, a scan in which the champion stands
    in the favoured slot, so that a challenger who wins is far better. Then each duel is the one
    whose better side is expected to be best, the better one in the slot that the judge does not
    favour, where the verdict is most open. A pair's other order is asked too, when that is worth
    more than another pair; of pairs whose verdict was a probability, only when all have been asked.
    The last duel, and after a scan all of them, are those after which the best is expected to look
    best: an exact look one step ahead.

    The champion is the winner of the start until it loses a duel, or stated probabilities
    contradict each other: A above B above C, but A above C by less than one of the two. Then it is
    whoever has the highest expected quality. So a judge without noise leads to the best one,
    whatever its probabilities make of a difference. `scores` are expected qualities as log-odds of
    the judge's preference, `standard_errors` their standard deviations.

    A failed duel says nothing; in the start the one expected to be better goes on, else the lower
    index, as after a tie. If a completion has no answered duel, its place is unknown: the champion
    is that of the others, and there are no scores. Without any answer, nothing was found.

    Args:
        num_completions: M, at least 2.
        limit: The most duels, at least M - 1; by default 3 M. There are no more than M (M - 1),
            each pair twice.
        batch: Duels in a round after the start.
        accuracy: How often the judge is right on two random completions, as measured or believed.
        order_noise: Share of the judge's errors that the other order does not repeat.
        stop_below: Stop when no duel promises a champion better by so much [quality sd]; 0 spends
            the limit. It is one duel's promise, so it must be far below the regret that is
            accepted.
        first_slot_bias: The judge's known preference for the first slot [logit].

    Raises:
        ValueError: M is below 2, `limit` below M - 1, or another option out of its bounds.
    Source: arXiv:2303.15746 (the choice of duels) and doi:10.1137/070693424 (the last ones).
        Deviation: see `Belief.best_of_two`; starts, order-aware asking and the errors of pairs are
        ours.
    """
    if num_completions < 2:
        raise ValueError(f"eubo needs at least 2 completions, got {num_completions}")
    in_bounds = batch >= 1 and 0.5 < accuracy < 1 and 0 <= order_noise <= 1 and stop_below >= 0
    if not in_bounds or not math.isfinite(first_slot_bias):
        raise ValueError(
            "eubo needs batch >= 1, accuracy in (0.5, 1), order_noise in [0, 1], stop_below >= 0 "
            "and a finite "
            f"first_slot_bias, got {batch}, {accuracy}, {order_noise}, {stop_below} and "
            f"{first_slot_bias}"
        )
    most = duel_limit("eubo", num_completions, limit, default=3 * num_completions)
    belief = Belief(
        num_completions,
        most,
        accuracy=accuracy,
        order_noise=order_noise,
        first_slot_bias=first_slot_bias,
    )
    return _play(DuelLog(num_completions, belief, first_slot_bias), most, batch, stop_below)


def _play(duels: DuelLog, limit: int, batch: int, stop_below: float) -> Strategy:
    tight = limit < _SPARE * duels.m and abs(duels.bias) >= _BIASED
    winner = yield from _scan(duels) if tight else _knockout(duels, list(range(duels.m)))
    # A winner without a verdict is only the lowest index.
    duels.winner = winner if winner in duels.answered else None
    while duels.count < limit:
        size = min(batch, limit - duels.count)
        look_ahead = tight or size == limit - duels.count
        chosen = _worth_asking(duels, size, stop_below, look_ahead=look_ahead)
        if not chosen:
            break
        yield from duels.ask(chosen)
    return duels.outcome()


def _knockout(duels: DuelLog, left: list[int]) -> Generator[list[Ask], Answers, int]:
    """Winners meet winners; whoever has a bye stands first in the next round."""
    while len(left) > 1:
        winners = yield from duels.ask(
            [duels.balanced(*two) for two in zip(left[::2], left[1::2], strict=False)]
        )
        left = [left[-1], *winners] if len(left) % 2 else winners
    return left[0]


def _scan(duels: DuelLog) -> Generator[list[Ask], Answers, int]:
    """The champion meets each in turn, in the favoured slot; from a stated margin on it is a knockout."""
    champion = 0
    for challenger in range(1, duels.m):
        if champion not in duels.answered:
            # Nobody waits for one that the judge cannot be asked about.
            champion = challenger - 1
        (champion,) = yield from duels.ask([duels.guarded(champion, challenger)])
        if duels.stated.any():
            # The bias is taken off a stated margin, so no slot is worth more than the other.
            return (yield from _knockout(duels, [champion, *range(challenger + 1, duels.m)]))
    return champion


def _worth_asking(duels: DuelLog, size: int, stop_below: float, *, look_ahead: bool) -> list[Duel]:
    """The next duels; none when the best of them promises less than `stop_below`."""
    belief = duels.belief.copy() if size > 1 else duels.belief
    # The look ahead is about verdicts that are signs.
    look_ahead = look_ahead and not duels.stated.any()
    chosen: list[Duel] = []
    while len(chosen) < size and not duels.asked.all():
        # A stated margin leaves only its order's own error to be asked for again.
        allowed = ~duels.asked & ~duels.stated
        values = np.where(allowed if allowed.any() else ~duels.asked, belief.best_of_two(), -np.inf)
        if not chosen and stop_below > 0 and values.max() - belief.mean.max() < stop_below:
            break
        if look_ahead:
            # Often no single verdict would change who looks best: then the other criterion decides.
            values = belief.best_after() + 1e-6 * values
        one, other = divmod(int(values.argmax()), duels.m)
        duel = Duel(one, other) if look_ahead else duels.open(one, other)
        duels.asked[duel] = True
        chosen.append(duel)
        if len(chosen) < size:
            belief.suppose(duel)
    return chosen
