"""EUBO: the next duel is the one whose better side is expected to be best."""

import math
from collections.abc import Generator
from typing import Annotated

import numpy as np
from pydantic import Field

from prefine.ranking.fitting.belief import Belief, stated_logit, states_margin
from prefine.ranking.protocol import Answers, Ask, Duel, Outcome, Strategy, duel_limit, strategy
from prefine.ranking.strategies.duel_history import DuelHistory, best_first

# Below so many calls per completion, and from such a bias [logit] on, a scan was a better start
# than a knockout. Below this promise, going on cost calls and hardly lowered regret. All three by
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
    """The most rounds for m completions: those of the start, and the rest in batches.

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
    accuracy: Annotated[float, Field(gt=0.5, lt=1)] = 0.75,
    order_noise: Annotated[float, Field(ge=0, le=1)] = 0.5,
    stop_below: Annotated[float, Field(ge=0)] = _PROMISE,
    first_slot_bias: float = 0.0,
) -> Strategy:
    """Find the best of M completions, and all scores, with few duels, chosen by a belief over all.

    The belief (`ranking.fitting.belief`) starts from M - 1 duels in which all but one lose: a
    knockout; or, when the limit is below 1.5 M and the judge favours a slot, a scan in which the
    champion stands in the favoured slot, so that a challenger who wins is far better. Then each
    duel is the one whose better side is expected to be best, the better one in the slot that the
    judge does not favour, where the verdict is most open. A pair's other order is asked too, when
    that is worth more than another pair; of pairs whose verdict was a probability, only when all
    have been asked. The last duel, and after a scan all of them, are those after which the best is
    expected to look best: an exact look one step ahead.

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
    return _Search(num_completions, belief, first_slot_bias).run(most, batch, stop_below)


class _Search:
    """The duels of one prompt, and the belief that they lead to."""

    def __init__(self, completions: int, belief: Belief, first_slot_bias: float) -> None:
        self.m, self.belief, self.bias = completions, belief, first_slot_bias
        self.history = DuelHistory(completions, first_slot_bias)
        # True where the verdict on a pair was a probability [M, M], symmetric.
        self.stated = np.zeros((completions, completions), dtype=bool)
        # The winner of the start, until it loses a duel.
        self.winner: int | None = None

    def run(self, limit: int, batch: int, stop_below: float) -> Strategy:
        history = self.history
        tight = limit < _SPARE * self.m and abs(self.bias) >= _BIASED
        start = self._scan() if tight else history.knockout(range(self.m), self._learn)
        winner = yield from start
        # A winner without a verdict is only the lowest index.
        self.winner = winner if winner in history.answered else None
        while (left := limit - len(history.duels)) > 0:
            look_ahead = tight or left <= batch
            duels = self._worth_asking(min(batch, left), stop_below, look_ahead=look_ahead)
            if not duels:
                break
            answers = yield from history.ask(duels)
            for duel, p_first in zip(duels, answers, strict=True):
                self._learn(duel, p_first)
        return self._outcome()

    def _learn(self, duel: Duel, p_first: float | None) -> int:
        """Update the belief; return the one of the two that goes on."""
        if p_first is None:
            means = self.belief.mean
            return min(duel, key=lambda i: (-means[i], i))
        self.belief.take(duel, p_first)
        if states_margin(p_first):
            self.stated[duel] = self.stated[duel.swapped()] = True
        logit = self._logit(p_first)
        if abs(logit) < 1e-9:
            return min(duel)
        better, worse = duel if logit > 0 else duel.swapped()
        if worse == self.winner:
            self.winner = None
        return better

    def _logit(self, p_first: float) -> float:
        """Log-odds for the first: a sign or a tie counts as it is, else the bias is taken off."""
        logit = stated_logit(p_first)
        return logit - self.bias if states_margin(p_first) and p_first != 0.5 else logit

    def _scan(self) -> Generator[list[Ask], Answers, int]:
        """Let each meet the champion, who stands in the favoured slot; return the last champion.

        From a stated margin on it is a knockout: the bias is taken off such a margin, so neither
        slot is worth more.
        """
        champion = 0
        for challenger in range(1, self.m):
            if champion not in self.history.answered:
                # Nobody waits for one that the judge cannot be asked about.
                champion = challenger - 1
            duel = Duel(champion, challenger)
            duel = duel if self.bias >= 0 else duel.swapped()
            (p_first,) = yield from self.history.ask([duel])
            champion = self._learn(duel, p_first)
            if self.stated.any():
                left = [champion, *range(challenger + 1, self.m)]
                return (yield from self.history.knockout(left, self._learn))
        return champion

    def _worth_asking(self, size: int, stop_below: float, *, look_ahead: bool) -> list[Duel]:
        """The next duels; none when the best of them promises less than `stop_below`."""
        belief = self.belief.copy() if size > 1 else self.belief
        # The look ahead is about verdicts that are signs.
        look_ahead = look_ahead and not self.stated.any()
        duels: list[Duel] = []
        while len(duels) < size and not self.history.asked.all():
            # A stated margin leaves only its order's own error to be asked for again.
            unasked = ~self.history.asked
            fresh = unasked & ~self.stated
            values = np.where(fresh if fresh.any() else unasked, belief.best_of_two(), -np.inf)
            if not duels and stop_below > 0 and values.max() - belief.mean.max() < stop_below:
                break
            if look_ahead:
                # Often no single verdict would change who looks best: then the other criterion
                # decides.
                values = belief.best_after() + 1e-6 * values
            one, other = divmod(int(values.argmax()), self.m)
            wanted = Duel(one, other) if look_ahead else self._open(one, other)
            duel = self.history.plan(wanted)
            assert duel is not None, "one order of it was not asked"
            duels.append(duel)
            if len(duels) < size:
                belief.suppose(duel)
        return duels

    def _open(self, one: int, other: int) -> Duel:
        """The two with the expected better one in the slot that the judge does not favour."""
        means = self.belief.mean
        better, worse = (one, other) if means[one] >= means[other] else (other, one)
        if self.bias == 0:
            return self.history.balanced(one, other)
        return Duel(worse, better) if self.bias > 0 else Duel(better, worse)

    def _outcome(self) -> Outcome:
        """The champion; and scores, if every completion has an answered duel."""
        by_mean = best_first(self.belief.mean, self.history.answered)
        if not by_mean:
            return Outcome()
        trusted = self.winner is not None and not self._contradicted()
        champion = self.winner if trusted else by_mean[0]
        if len(by_mean) < self.m:
            return Outcome(champion=champion)
        scores, errors = self.belief.log_odds()
        return Outcome(
            champion=champion,
            scores=tuple(scores.tolist()),
            standard_errors=tuple(errors.tolist()),
            score_unit="log_odds",
        )

    def _contradicted(self) -> bool:
        """Return True if stated probabilities show noise: A over B over C, A over C by less.

        A judge without noise states a probability that grows with the difference in quality: strong
        stochastic transitivity, so A is above C by at least as much as A above B and B above C.
        Without stated probabilities there is nothing to contradict but signs, and `winner` heeds
        those.
        """
        if not self.stated.any():
            return False
        first = np.full((self.m, self.m), math.nan)
        for duel, p_first in zip(self.history.duels, self.history.answers, strict=True):
            if p_first is not None:
                first[duel] = self._logit(p_first)
        # The margin of a pair is the mean over both orders, or of the one that was asked.
        second = -first.T
        margin = np.where(
            np.isnan(first), second, np.where(np.isnan(second), first, (first + second) / 2)
        )
        upper, lower, whole = margin[:, :, None], margin[None, :, :], margin[:, None, :]
        # An unknown margin is NaN, and neither below nor above anything.
        return bool(((upper >= 0) & (lower >= 0) & (whole < np.maximum(upper, lower) - 1e-9)).any())
