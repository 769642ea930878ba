"""The duels of a prompt so far: what was asked, in which slots, and who has not lost."""

import math
from collections.abc import Generator

import numpy as np

from prefine.ranking.fitting.belief import Belief, stated_logit, states_margin
from prefine.ranking.protocol import Answers, Ask, Duel, Outcome


class DuelLog:
    """The duels so far.

    Args:
        completions: M.
        belief: Learns from every answer.
        first_slot_bias: The judge's known preference for the first slot [logit].

    Attributes:
        asked: Whether a duel was asked, or chosen to be [M first, M second]; nobody meets itself.
        stated: Whether the verdict on a pair was a probability [M, M], symmetric.
        count: Number of duels asked.
        answered: Those with an answered duel.
        winner: Who won the start and has not lost since.
    """

    def __init__(self, completions: int, belief: Belief, first_slot_bias: float) -> None:
        self.m, self.belief, self.bias = completions, belief, first_slot_bias
        self.asked = np.eye(completions, dtype=bool)
        self.stated = np.zeros((completions, completions), dtype=bool)
        self.count = 0
        self.answered: set[int] = set()
        self.winner: int | None = None
        self._times_first = [0] * completions
        self._logits = np.full((completions, completions), math.nan)

    def ask(self, duels: list[Duel]) -> Generator[list[Ask], Answers, list[int]]:
        """Ask a round; who goes on from each duel."""
        for duel in duels:
            self.asked[duel] = True
            self._times_first[duel.first] += 1
        self.count += len(duels)
        answers = yield list(duels)
        return [self._take(duel, p_first) for duel, p_first in zip(duels, answers, strict=True)]

    def _take(self, duel: Duel, p_first: float | None) -> int:
        if p_first is None:
            means = self.belief.mean
            return min(duel, key=lambda i: (-means[i], i))
        self.answered.update(duel)
        self.belief.take(duel, p_first)
        logit = stated_logit(p_first)
        # A sign is believed as it is, and so is a tie; from a probability the bias is taken off.
        if states_margin(p_first) and p_first != 0.5:
            logit -= self.bias
        if states_margin(p_first):
            self.stated[duel] = self.stated[duel.second, duel.first] = True
        self._logits[duel] = logit
        if abs(logit) < 1e-9:
            return min(duel)
        better, worse = duel if logit > 0 else (duel.second, duel.first)
        if worse == self.winner:
            self.winner = None
        return better

    def balanced(self, one: int, other: int) -> Duel:
        """The one that was first less often is shown first."""
        return (
            Duel(one, other)
            if self._times_first[one] <= self._times_first[other]
            else Duel(other, one)
        )

    def guarded(self, champion: int, challenger: int) -> Duel:
        """The champion in the favoured slot."""
        return Duel(champion, challenger) if self.bias >= 0 else Duel(challenger, champion)

    def open(self, one: int, other: int) -> Duel:
        """The better one, as expected, in the slot that is not favoured; of a pair asked once, the other order."""
        means = self.belief.mean
        better, worse = (one, other) if means[one] >= means[other] else (other, one)
        if self.bias == 0:
            duel = self.balanced(one, other)
        else:
            duel = Duel(worse, better) if self.bias > 0 else Duel(better, worse)
        return Duel(duel.second, duel.first) if self.asked[duel] else duel

    def outcome(self) -> Outcome:
        """What was found; without scores, if one has no answered duel: its score would be the prior's."""
        means = self.belief.mean
        by_mean = sorted(self.answered, key=lambda i: (-round(float(means[i]), 9), i))
        if not by_mean:
            return Outcome()
        champion = by_mean[0] if self.winner is None or self.contradicted() else self.winner
        if len(by_mean) < self.m:
            return Outcome(champion=champion)
        scores, errors = self.belief.log_odds()
        return Outcome(
            champion=champion,
            scores=tuple(scores.tolist()),
            standard_errors=tuple(errors.tolist()),
            score_unit="log_odds",
        )

    def contradicted(self) -> bool:
        """Whether stated probabilities show noise: A above B above C, but A above C by less than one of the two.

        A judge without noise states a probability that grows with the difference in quality: strong
        stochastic transitivity. Without stated probabilities there is nothing to contradict but
        signs, and `winner` heeds those.
        """
        if not self.stated.any():
            return False
        there, back = self._logits, -self._logits.T
        margin = np.where(
            np.isnan(there), back, np.where(np.isnan(back), there, (there + back) / 2)
        )
        first, second, whole = margin[:, :, None], margin[None, :, :], margin[:, None, :]
        # What is not known is NaN, and not below or above anything.
        return bool(
            ((first >= 0) & (second >= 0) & (whole < np.maximum(first, second) - 1e-9)).any()
        )
