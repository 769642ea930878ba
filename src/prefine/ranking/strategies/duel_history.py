"""The duels of one prompt so far, for the strategies that choose the next ones by them."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np

from prefine.newton import Array
from prefine.ranking.fitting.bradley_terry import (
    PRIOR_SD,
    centred_errors,
    laplace_covariance,
    map_scores,
)
from prefine.ranking.protocol import Answers, Ask, Duel, Outcome


class DuelHistory:
    """The duels, their answers, and the Bradley-Terry scores that follow.

    Args:
        completions: M.
        first_slot_bias: The judge's known preference for the first slot [logit].
        prior_sd: Standard deviation of a score a priori [logit].

    Attributes:
        duels: In the order asked.
        answers: P(first is better) of each; None failed.
        asked: True for a duel that was asked, or was planned [M first, M second], and on the
            diagonal: nobody meets itself.
        answered: The completions with an answered duel.
        times: Number of duels that each completion was in.
        times_first: Number of these in which it was shown first.
        unbeaten: True for each that has lost no duel, as `loser` counts it.
    """

    def __init__(
        self, completions: int, first_slot_bias: float = 0.0, prior_sd: float = PRIOR_SD
    ) -> None:
        self.duels: list[Duel] = []
        self.answers: Answers = []
        self.asked = np.eye(completions, dtype=bool)
        self.answered: set[int] = set()
        self.times = [0] * completions
        self.times_first = [0] * completions
        self.unbeaten = [True] * completions
        self._model = {"first_slot_bias": first_slot_bias, "prior_sd": prior_sd}
        # tanh does not overflow.
        self._even = 0.5 + 0.5 * math.tanh(first_slot_bias / 2)
        self._scores: Array | None = None

    def balanced(self, one: int, other: int) -> Duel:
        """The duel of these two with the one first that was first less often, else the former."""
        duel = Duel(one, other)
        return duel if self.times_first[one] <= self.times_first[other] else duel.swapped()

    def plan(self, duel: Duel) -> Duel | None:
        """Mark this duel as asked, or else its other order, and return it; None if both are."""
        for planned in (duel, duel.swapped()):
            if not self.asked[planned]:
                self.asked[planned] = True
                return planned
        return None

    def ask(self, duels: Sequence[Duel]) -> Generator[list[Ask], Answers, Answers]:
        """Ask a round of duels, record the answers and return them."""
        answers = yield list(duels)
        self.record(duels, answers)
        return answers

    def record(self, duels: Sequence[Duel], answers: Answers) -> None:
        """Add a round that was asked."""
        self.duels += duels
        self.answers += answers
        for duel, p_first in zip(duels, answers, strict=True):
            self.asked[duel] = True
            for player in duel:
                self.times[player] += 1
            self.times_first[duel.first] += 1
            loser = self.loser(duel, p_first)
            if loser is not None:
                self.answered.update(duel)
                self.unbeaten[loser] = False

    def loser(self, duel: Duel, p_first: float | None) -> int | None:
        """The one that lost when the judge's bias is taken off; None without an answer.

        A tie, 0.5 or the probability that the bias gives equals, counts half in the fit, and here
        as a loss of the higher index. So the answers of a judge without noise, whose ties are
        between equals, agree with one strict order: by quality, then by index.
        """
        if p_first is None:
            return None
        if p_first == 0.5 or (0 < p_first < 1 and abs(p_first - self._even) < 1e-12):
            return max(duel)
        return duel.second if p_first > self._even else duel.first

    def knockout(
        self, entrants: Sequence[int], goes_on: Callable[[Duel, float | None], int]
    ) -> Generator[list[Ask], Answers, int]:
        """Let neighbours meet round by round until one is left, and return it.

        Args:
            entrants: By index. The last of an odd number has a bye, and stands first in the next
                round.
            goes_on: Returns one of the two of a duel, by P(first is better) or None.
        """
        left = list(entrants)
        while len(left) > 1:
            duels = [self.balanced(*two) for two in zip(left[::2], left[1::2], strict=False)]
            answers = yield from self.ask(duels)
            winners = list(map(goes_on, duels, answers))
            left = [left[-1], *winners] if len(left) % 2 else winners
        return left[0]

    def scores(self) -> Array:
        """The Bradley-Terry scores by all duels so far [M]."""
        # Each fit starts from the one before: a round changes little.
        self._scores = map_scores(
            len(self.times), self.duels, self.answers, start=self._scores, **self._model
        )
        return self._scores

    def lead(self, leader: int) -> float:
        """The least lead over any other completion [standard errors of the difference]."""
        scores = self.scores()
        covariance = laplace_covariance(scores, self.duels, self.answers, **self._model)
        variances = np.diagonal(covariance)
        of_difference = variances + variances[leader] - 2 * covariance[leader]
        leads = (scores[leader] - scores) / np.sqrt(np.maximum(of_difference, 1e-300))
        return float(np.delete(leads, leader).min())

    def outcome(self, *, champion: int | None = None, ordered: bool = False) -> Outcome:
        """The outcome with scores and standard errors, if every completion has an answered duel.

        The score of a completion without one would be the prior's: its place is unknown, and the
        outcome has the champion only.

        Args:
            champion: The champion found, if the strategy finds one.
            ordered: The order is that of the scores; otherwise the strategy gives none.
        """
        completions = len(self.times)
        if len(self.answered) < completions:
            return Outcome(champion=champion)
        scores = self.scores()
        covariance = laplace_covariance(scores, self.duels, self.answers, **self._model)
        errors = centred_errors(covariance, self._model["prior_sd"])
        return Outcome(
            champion=champion,
            order=tuple(best_first(scores, range(completions))) if ordered else None,
            scores=tuple(scores.tolist()),
            standard_errors=tuple(errors.tolist()),
            score_unit="log_odds",
        )


def best_first(scores: Array, among: Iterable[int]) -> list[int]:
    """These completions by score; scores that differ by less than the fit's accuracy, by index."""
    rounded = [round(score, 9) for score in scores.tolist()]
    return sorted(among, key=lambda i: (-rounded[i], i))
