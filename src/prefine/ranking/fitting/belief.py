"""What the verdicts so far say of the completions' qualities: a Gaussian belief over them and the judge's errors.

Qualities are N(0, 1). The judge compares by margin = quality_first - quality_second + pair error +
order error + slot bias, as in `judges.noise`: the pair error is the same for both orders of a pair
(with the opposite sign), the order error is each order's own. So a pair's second order says less
than its first, and how much less is computed, not
assumed: the pair errors are variables of the belief beside the qualities.

A verdict strictly between 0 and 1 states a margin, and the update is exact. One of 0 or 1 states
the margin's sign: the posterior is replaced by the Gaussian with the same mean and covariance
(assumed-density filtering), which depends a little on the order of the verdicts. Its slot bias is
that of a judge who only says which: a judge who states probabilities has another one at the same
log-odds, so its rare verdicts of 0 or 1 are corrected somewhat too much.
"""

import math
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from prefine.ranking.fitting import normal
from prefine.ranking.fitting.normal import Array
from prefine.ranking.noise import SOFTNESS, noise_sd
from prefine.ranking.protocol import Duel

Places: TypeAlias = npt.NDArray[np.intp]

_NORMAL = NormalDist()
_MOST_LOGITS = math.log(
    1e6
)  # what is stated beyond counts as this: nobody is that sure, and digits run out
_LOGITS_PER_SD = (
    1.702  # the normal and the logistic distribution function differ by less than .01 at this scale
)


def states_margin(p_first: float) -> bool:
    """Whether a verdict is a probability to be taken at its word; else it is a sign."""
    return 0 < p_first < 1


def stated_logit(p_first: float) -> float:
    """The log-odds that a verdict states, within bounds; a sign states the most."""
    if not states_margin(p_first):
        return _MOST_LOGITS if p_first > 0.5 else -_MOST_LOGITS
    return min(max(math.log(p_first) - math.log1p(-p_first), -_MOST_LOGITS), _MOST_LOGITS)


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
        self._own, self._shared = order_noise * self.sigma**2, (1 - order_noise) * self.sigma**2
        self._bias_logit = first_slot_bias
        # What sign verdicts are shifted by, so that equals go to the first slot with the odds that
        # were measured.
        odds = 0.5 + 0.5 * math.tanh(max(-30.0, min(30.0, first_slot_bias)) / 2)
        self._bias = self.sigma * _NORMAL.inv_cdf(min(max(odds, 1e-12), 1 - 1e-12))
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
        along, expected, variance = self._margin(duel)
        if states_margin(p_first):
            margin = self.sigma * (stated_logit(p_first) - self._bias_logit) / SOFTNESS
            self._update(along, (margin - expected) / variance, 1 / variance)
            return
        sd = math.sqrt(variance)
        sign = 1.0 if p_first > 0.5 else -1.0
        z = sign * (expected + self._bias) / sd
        surprise = float(normal.mills(np.array(z)))
        self._update(along, sign * surprise / sd, surprise * (surprise + z) / variance)

    def suppose(self, duel: Duel) -> None:
        """Narrow the belief as a stated margin would, whatever it says: for choosing several duels at once."""
        along, _, variance = self._margin(duel)
        self._update(along, 0.0, 1 / variance)

    def copy(self) -> "Belief":
        """An independent copy."""
        other = object.__new__(Belief)
        other.__dict__ = {
            name: value.copy() if isinstance(value, np.ndarray | dict) else value
            for name, value in self.__dict__.items()
        }
        return other

    def log_odds(self) -> tuple[Array, Array]:
        """Scores [M] and their standard errors [M], centred, in the log-odds of this judge's preference.

        The sigmoid of a difference is about the probability with which the judge, its slot bias
        aside, prefers one.
        """
        cov = self._cov[: self._m, : self._m]
        scale = _LOGITS_PER_SD / self.sigma
        variance = cov.diagonal() - 2 * cov.mean(axis=0) + cov.mean()
        return scale * (self.mean - self.mean.mean()), scale * np.sqrt(np.maximum(variance, 0))

    def best_of_two(self) -> Array:
        """The quality to expect of whichever of two will look better after one more verdict on them [M, M].

        Symmetric; the verdict counts as a stated margin. Source: the expected utility of the best
        option, arXiv:2303.15746. Deviation: after the verdict, not after knowing the truth, so that
        a pair's second order, which says less, is worth less.
        """
        covariance, variance = self._towards_margins()
        sd = np.maximum(covariance, 1e-12) / np.sqrt(variance)
        mean = self.mean
        return np.maximum(mean[:, None], mean) + sd * normal.expected_excess(
            np.abs(mean[:, None] - mean) / sd
        )

    def best_after(self) -> Array:
        """The quality to expect of whichever completion will look best after one more verdict [M first, M second].

        The verdict counts as a sign, with the slot bias. Source: the knowledge gradient,
        doi:10.1137/070693424.
        """
        m, mean, cov = self._m, self.mean, self._cov
        _, variance = self._towards_margins()
        sd = np.sqrt(variance)
        expected = mean[:, None] - mean
        along = cov[:m, None, :m] - cov[None, :m, :m]
        low, high, error = self._asked()
        if len(error):
            along[low, high] += cov[error, :m]
            along[high, low] -= cov[error, :m]
            expected[low, high] += self._mean[error]
            expected[high, low] -= self._mean[error]
        z = (expected + self._bias) / sd
        along /= sd[:, :, None]
        p_first = normal.cdf(z)
        first = (mean + along * normal.mills(z)[:, :, None]).max(axis=2)
        second = (mean - along * normal.mills(-z)[:, :, None]).max(axis=2)
        best: Array = p_first * first + (1 - p_first) * second
        return best

    def _asked(self) -> tuple[Places, Places, Places]:
        """The pairs with a verdict, by index, and where their errors are in the belief."""
        count = len(self._pairs)
        return self._low[:count], self._high[:count], np.arange(self._m, self._m + count)

    def _towards_margins(self) -> tuple[Array, Array]:
        """Of each pair, what its margin shares with the difference in quality, and the margin's variance [M, M]."""
        cov = self._cov
        own = cov.diagonal()[: self._m]
        between = own[:, None] + own - 2 * cov[: self._m, : self._m]
        variance = between + (self._own + self._shared + 1e-9)
        low, high, error = self._asked()
        if len(error):
            difference = between[low, high]
            shared = cov[low, error] - cov[high, error]
            between[low, high] = between[high, low] = difference + shared
            again = difference + 2 * shared + cov[error, error] + self._own + 1e-9
            variance[low, high] = variance[high, low] = again
        return between, variance

    def _margin(self, duel: Duel) -> tuple[Array, float, float]:
        """What a duel's margin without the slot bias shares with each variable, its mean and its variance."""
        first, second = duel
        low, high = sorted(duel)
        if (low, high) not in self._pairs:
            place = len(self._pairs)
            self._pairs[low, high] = self._m + place
            self._low[place], self._high[place] = low, high
            self._cov[self._m + place, self._m + place] = self._shared
        error = self._pairs[low, high]
        used = self._m + len(self._pairs)
        cov = self._cov[:used, :used]
        along = cov[first] - cov[second]
        if first == low:
            along += cov[error]
            error_share, error_mean = along[error], self._mean[error]
        else:
            along -= cov[error]
            error_share, error_mean = -along[error], -self._mean[error]
        variance = along[first] - along[second] + error_share + self._own + 1e-9
        return along, float(self._mean[first] - self._mean[second] + error_mean), float(variance)

    def _update(self, along: Array, step: float, precision: float) -> None:
        used = len(along)
        self._mean[:used] += step * along
        self._cov[:used, :used] -= precision * np.outer(along, along)
