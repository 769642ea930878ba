"""The duels of one prompt so far, for the strategies that fit Bradley-Terry scores to them."""

import math
from collections.abc import Sequence

import numpy as np

from prefine.ranking.fitting.bradley_terry import Array, fit_duels, map_scores, posterior
from prefine.ranking.protocol import Answers, Duel, Outcome


class DuelHistory:
    """Who met whom, how it was answered, and what follows from it.

    Attributes:
        duels: In the order asked.
        answers: P(first is better) of each; None failed.
        times: Number of duels that each completion was in.
        times_first: Number of these in which it was shown first.
        unbeaten: Whether each has lost no duel, its losses being judged with the known bias taken
            off. A tie, 0.5 or what the bias says of equals, counts half in the fit, and here as a
            loss of the higher index. So the answers of a judge without noise, whose ties are
            between equals, agree with one strict order: by quality, then by index.
    """

    def __init__(self, completions: int, first_slot_bias: float, prior_sd: float) -> None:
        self.duels: list[Duel] = []
        self.answers: list[float | None] = []
        self.times = [0] * completions
        self.times_first = [0] * completions
        self.unbeaten = [True] * completions
        self._bias, self._prior_sd = first_slot_bias, prior_sd
        # tanh does not overflow.
        self._even = 0.5 + 0.5 * math.tanh(first_slot_bias / 2)
        self._start: Array | None = None

    def balanced(self, one: int, other: int) -> Duel:
        """The duel of these two with the one first that was first less often; the former of them if neither was."""
        return (
            Duel(one, other)
            if self.times_first[one] <= self.times_first[other]
            else Duel(other, one)
        )

    def take(self, duels: Sequence[Duel], answers: Answers) -> None:
        """Add a round."""
        self.duels += duels
        self.answers += answers
        for duel, p_first in zip(duels, answers, strict=True):
            for player in duel:
                self.times[player] += 1
            self.times_first[duel.first] += 1
            loser = self.loser(duel, p_first)
            if loser is not None:
                self.unbeaten[loser] = False

    def loser(self, duel: Duel, p_first: float | None) -> int | None:
        """Who lost, as `unbeaten` counts it; None without an answer."""
        if p_first is None:
            return None
        if p_first == 0.5 or (0 < p_first < 1 and abs(p_first - self._even) < 1e-12):
            return max(duel)
        return duel.second if p_first > self._even else duel.first

    def answered(self) -> list[int]:
        """The completions with an answered duel, by index."""
        known = {
            player
            for duel, p in zip(self.duels, self.answers, strict=True)
            if p is not None
            for player in duel
        }
        return sorted(known)

    def scores(self) -> Array:
        """The fit's scores [M] now."""
        self._start = map_scores(
            len(self.times),
            self.duels,
            self.answers,
            first_slot_bias=self._bias,
            prior_sd=self._prior_sd,
            start=self._start,
        )
        return self._start

    def lead(self, leader: int) -> float:
        """By how many standard errors of the difference a completion is ahead of each of the others, at least."""
        scores, covariance = posterior(
            len(self.times),
            self.duels,
            self.answers,
            first_slot_bias=self._bias,
            prior_sd=self._prior_sd,
            start=self._start,
        )
        own = np.diagonal(covariance)
        leads = (scores[leader] - scores) / np.sqrt(
            np.maximum(own + own[leader] - 2 * covariance[leader], 1e-300)
        )
        return float(np.delete(leads, leader).min())

    def outcome(self, *, champion: int | None = None, ordered: bool = False) -> Outcome:
        """The outcome with scores and standard errors; without them, and without an order, if one has no answered duel.

        Such a completion's score would be the prior's: its place is unknown.

        Args:
            champion: The champion found, if the strategy finds one.
            ordered: Whether the strategy's order is that of the scores.
        """
        completions = len(self.times)
        if len(self.answered()) < completions:
            return Outcome(champion=champion)
        fit = fit_duels(
            completions,
            self.duels,
            self.answers,
            first_slot_bias=self._bias,
            prior_sd=self._prior_sd,
            start=self._start,
        )
        return Outcome(
            champion=champion,
            order=tuple(best_first(fit.scores, range(completions))) if ordered else None,
            scores=tuple(fit.scores.tolist()),
            standard_errors=tuple(fit.standard_errors.tolist()),
            score_unit="log_odds",
        )


def best_first(scores: Array, among: Sequence[int]) -> list[int]:
    """These completions by score; of scores that differ by less than the fit's accuracy, the lower index is first."""
    rounded = [round(score, 9) for score in scores.tolist()]
    return sorted(among, key=lambda i: (-rounded[i], i))
