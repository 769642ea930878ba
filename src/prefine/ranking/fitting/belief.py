"""A Gaussian belief over the qualities of completions and the errors of their judge.

Qualities are N(0, 1). The judge compares by margin = quality_first - quality_second + pair error +
order error + slot bias, as in `ranking.noise`: the pair error is the same for both orders of a pair
(with the opposite sign), the order error is each order's own. So a pair's second order says less
than its first. How much less follows from the pair errors, which are variables of the belief
beside the qualities.

A verdict strictly between 0 and 1 states a margin, and the update is exact. A verdict of 0 or 1
states the margin's sign: the posterior is replaced by the Gaussian with the same mean and
covariance (assumed-density filtering), which depends a little on the order of the verdicts. The
slot bias of a sign is that of a judge who only says which. A judge who states probabilities has
another one at the same log-odds, so its rare verdicts of 0 or 1 are corrected somewhat too much.
"""

import math
from copy import deepcopy
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import erfcx, ndtr, ndtri

from prefine.ranking.noise import SOFTNESS, noise_sd
from prefine.ranking.protocol import Duel

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]

# A stated log-odds beyond counts as this: nobody is that sure, and digits run out.
_MOST_LOGITS = math.log(1e6)
# At this scale the normal and the logistic distribution function differ by less than .01.
_LOGITS_PER_SD = 1.702


def states_margin(p_first: float) -> bool:
    """True for a probability to be taken at its word; a verdict of 0 or 1 is a sign."""
    return 0 < p_first < 1


def stated_logit(p_first: float) -> float:
    """The log-odds that a verdict states, within bounds; a sign states the most."""
    if not states_margin(p_first):
        return _MOST_LOGITS if p_first > 0.5 else -_MOST_LOGITS
    return min(max(math.log(p_first) - math.log1p(-p_first), -_MOST_LOGITS), _MOST_LOGITS)


def mean_excess(z: Array) -> Array:
    """The mean by which a standard normal Z exceeds -z where it does: density(z) / P(Z < z)."""
    # By the scaled complementary error function, which stays finite where both go to 0.
    excess: Array = math.sqrt(2 / math.pi) / erfcx(-z / math.sqrt(2))
    return excess


def expected_excess(z: Array) -> Array:
    """E max(Z - z, 0) of a standard normal Z."""
    excess: Array = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * ndtr(-z)
    return excess


class Belief:
    """The belief about M completions of one prompt.

    Args:
        completions: M.
        capacity: The most verdicts that will be taken.
        accuracy: Probability that the judge is right on two random completions when it favours no
            slot.
        order_noise: Share of the judge's error variance that each order has for itself.
        first_slot_bias: The judge's known preference for the first slot [logit].

    Attributes:
        sigma: Standard deviation of the judge's error [quality sd].
        mean: Expected qualities [M].
    """

    def __init__(
        self,
        completions: int,
        capacity: int,
        *,
        accuracy: float,
        order_noise: float,
        first_slot_bias: float,
    ) -> None:
        self._m = completions
        self.sigma = noise_sd(accuracy)
        self._order_variance = order_noise * self.sigma**2
        self._pair_variance = (1 - order_noise) * self.sigma**2
        self._bias_logit = first_slot_bias
        # Signs are shifted by this, so that equals go to the first slot with the measured odds.
        odds = 0.5 + 0.5 * math.tanh(max(-30.0, min(30.0, first_slot_bias)) / 2)
        self._bias = self.sigma * float(ndtri(min(max(odds, 1e-12), 1 - 1e-12)))
        capacity = min(capacity, completions * (completions - 1) // 2)
        size = completions + capacity
        self._mean = np.zeros(size)
        self._cov = np.zeros((size, size))
        np.fill_diagonal(self._cov[:completions, :completions], 1.0)
        self._pairs: dict[tuple[int, int], int] = {}
        self._low, self._high = np.zeros(capacity, dtype=np.intp), np.zeros(capacity, dtype=np.intp)

    @property
    def mean(self) -> Array:
        """Expected qualities [M]."""
        return self._mean[: self._m]

    def take(self, duel: Duel, p_first: float) -> None:
        """Learn from a verdict."""
        covariance, expected, variance = self._margin(duel)
        if states_margin(p_first):
            margin = self.sigma * (stated_logit(p_first) - self._bias_logit) / SOFTNESS
            self._update(covariance, (margin - expected) / variance, 1 / variance)
            return
        sd = math.sqrt(variance)
        sign = 1.0 if p_first > 0.5 else -1.0
        z = sign * (expected + self._bias) / sd
        surprise = float(mean_excess(np.array(z)))
        self._update(covariance, sign * surprise / sd, surprise * (surprise + z) / variance)

    def suppose(self, duel: Duel) -> None:
        """Narrow the belief as any stated margin on this duel would: to choose several at once."""
        covariance, _, variance = self._margin(duel)
        self._update(covariance, 0.0, 1 / variance)

    def copy(self) -> "Belief":
        """An independent copy."""
        return deepcopy(self)

    def log_odds(self) -> tuple[Array, Array]:
        """Centred scores [M] and standard errors [M], in log-odds of this judge's preference.

        The sigmoid of a difference is about the probability with which the judge, its slot bias
        aside, prefers one.
        """
        cov = self._cov[: self._m, : self._m]
        scale = _LOGITS_PER_SD / self.sigma
        variance = cov.diagonal() - 2 * cov.mean(axis=0) + cov.mean()
        return scale * (self.mean - self.mean.mean()), scale * np.sqrt(np.maximum(variance, 0))

    def best_of_two(self) -> Array:
        """The expected quality of the one of two that looks better after one more verdict [M, M].

        Symmetric; the verdict counts as a stated margin. Source: the expected utility of the best
        option, arXiv:2303.15746. Deviation: after the verdict, not after knowing the truth, so that
        a pair's second order, which says less, is worth less.
        """
        covariance, variance = self._pair_margins()
        sd = np.maximum(covariance, 1e-12) / np.sqrt(variance)
        mean = self.mean
        return np.maximum(mean[:, None], mean) + sd * expected_excess(
            np.abs(mean[:, None] - mean) / sd
        )

    def best_after(self) -> Array:
        """The expected quality of the one that looks best after one more verdict [M, M].

        By who is shown first and who second. The verdict counts as a sign, with the slot bias.
        Source: the knowledge gradient, doi:10.1137/070693424.
        """
        m, mean, cov = self._m, self.mean, self._cov
        _, variance = self._pair_margins()
        sd = np.sqrt(variance)
        expected = mean[:, None] - mean
        covariance = cov[:m, None, :m] - cov[None, :m, :m]
        low, high, error = self._asked()
        if len(error):
            # A pair with a verdict has an error of its own in its margin.
            covariance[low, high] += cov[error, :m]
            covariance[high, low] -= cov[error, :m]
            expected[low, high] += self._mean[error]
            expected[high, low] -= self._mean[error]
        z = (expected + self._bias) / sd
        covariance /= sd[:, :, None]
        p_first = ndtr(z)
        first = (mean + covariance * mean_excess(z)[:, :, None]).max(axis=2)
        second = (mean - covariance * mean_excess(-z)[:, :, None]).max(axis=2)
        best: Array = p_first * first + (1 - p_first) * second
        return best

    def _asked(self) -> tuple[Indices, Indices, Indices]:
        """The pairs with a verdict, lower and higher index, and the indices of their errors."""
        count = len(self._pairs)
        return self._low[:count], self._high[:count], np.arange(self._m, self._m + count)

    def _pair_margins(self) -> tuple[Array, Array]:
        """Each pair's margin: covariance with the difference in quality, and variance [M, M]."""
        cov = self._cov
        of_one = cov.diagonal()[: self._m]
        between = of_one[:, None] + of_one - 2 * cov[: self._m, : self._m]
        variance = between + (self._order_variance + self._pair_variance + 1e-9)
        low, high, error = self._asked()
        if len(error):
            difference = between[low, high]
            shared = cov[low, error] - cov[high, error]
            between[low, high] = between[high, low] = difference + shared
            known = difference + 2 * shared + cov[error, error] + self._order_variance + 1e-9
            variance[low, high] = variance[high, low] = known
        return between, variance

    def _margin(self, duel: Duel) -> tuple[Array, float, float]:
        """A duel's margin without slot bias: covariance with each variable, mean and variance."""
        # A margin is quality first - quality second ± the pair's error + its order's error. First
        # the pair's error becomes a variable, unless it is one; then the margin's covariances are
        # sums of rows; and the order's error, met here only, adds to the variance alone.
        first, second = duel
        low, high = sorted(duel)
        if (low, high) not in self._pairs:
            place = len(self._pairs)
            self._pairs[low, high] = self._m + place
            self._low[place], self._high[place] = low, high
            self._cov[self._m + place, self._m + place] = self._pair_variance
        error = self._pairs[low, high]
        used = self._m + len(self._pairs)
        cov = self._cov[:used, :used]
        sign = 1.0 if first == low else -1.0
        covariance = cov[first] - cov[second] + sign * cov[error]
        mean = self._mean[first] - self._mean[second] + sign * self._mean[error]
        variance = covariance[first] - covariance[second] + sign * covariance[error]
        return covariance, float(mean), float(variance + self._order_variance + 1e-9)

    def _update(self, covariance: Array, step: float, precision: float) -> None:
        # Conditioning on one linear combination of Gaussians changes the covariance by rank one.
        used = len(covariance)
        self._mean[:used] += step * covariance
        self._cov[:used, :used] -= precision * np.outer(covariance, covariance)
