"""Bradley-Terry scores from duels: the maximum a posteriori fit, for one prompt or thousands.

P(first wins) = sigmoid(s_first - s_second + first_slot_bias), each score s ~ N(0, prior_sd²) a
priori. The posterior is strictly log-concave, so there is one maximum, it is finite whatever the
duels say, and it does not depend on their order. Its scores sum to zero in every group of
completions that duels connect: completions of different groups are comparable through the prior
only, and one without any duel has the prior's score, 0.

Source: Bradley and Terry 1952; fitted by `prefine.newton`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.newton import Array, Indices, LocalLoss, newton
from prefine.ranking.protocol import Answers, Duel

PRIOR_SD = 1.5
"""A weak prior [logit]: it keeps a few verdicts from counting as certainty.

The row `why` of benchmarks/ranking.py prints the cost of a wider one for `top_two`.
"""

# As in `newton`: the error after such a step is below its square.
_LAST_STEP = 1e-5
# Ten or so are usual; a bias of 800 logits against hard answers and a prior of 100 take 850.
_MOST_STEPS = 5000
_ADVICE = "; take a smaller prior_sd"
# Prompts at once: the Hessians of a block stay in the cache.
_BLOCK = 1024


class Fit(NamedTuple):
    """Scores and their standard errors [logit], [..., M].

    The scores have mean 0. A standard error is the posterior standard deviation, in Laplace's
    approximation, of the completion's score minus the mean of all M scores: sqrt of the diagonal of
    C H⁻¹ C, with H the Hessian of the negative log-posterior and C = I - 11ᵀ / M; that is H⁻¹ -
    prior_sd² / M.
    """

    scores: Array
    standard_errors: Array


def bradley_terry(
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    p_first: Array,
    *,
    completions: int,
    first_slot_bias: float = 0.0,
    prior_sd: float = PRIOR_SD,
) -> Fit:
    """Fit N prompts at once, [N, M] each.

    Args:
        first: Index of the completion shown first [N, D].
        second: Index of the other one [N, D]; any index but `first`'s, also where the answer is
            missing.
        p_first: P(first is better) [N, D], hard or soft (the target of a cross-entropy); 0.5 a tie,
            NaN missing.
        completions: M.
        first_slot_bias: The judge's known preference for the first slot [logit].
        prior_sd: Standard deviation of a score a priori [logit].

    Raises:
        ValueError: The shapes differ, an index is not in 0 … M - 1, a duel is of one with itself,
            an answer is no probability, or the prior is not a positive finite number.
    """
    if not first.shape == second.shape == p_first.shape or first.ndim != 2:
        raise ValueError(
            f"first, second and p_first must be [N, D], got {first.shape}, {second.shape}, "
            f"{p_first.shape}"
        )
    if first.size and (
        min(first.min(), second.min()) < 0 or max(first.max(), second.max()) >= completions
    ):
        raise ValueError(f"indices of duels must be in 0 … {completions - 1}")
    if (first == second).any():
        raise ValueError("a completion cannot meet itself")
    if ((p_first < 0) | (p_first > 1)).any():
        raise ValueError("p_first must be in 0 … 1, or NaN where it is missing")
    fits = []
    for start in range(0, len(first), _BLOCK):
        rows = slice(start, start + _BLOCK)
        missing = np.isnan(p_first[rows])
        block = _Duels(
            first[rows].astype(np.intp),
            second[rows].astype(np.intp),
            np.where(missing, 0.5, p_first[rows]),
            1.0 - missing,
            first_slot_bias,
        )
        fits.append(_fit(block, completions, prior_sd))
    nothing = np.zeros((0, completions))
    return Fit(
        np.concatenate([nothing, *(fit.scores for fit in fits)]),
        np.concatenate([nothing, *(fit.standard_errors for fit in fits)]),
    )


def fit_duels(
    completions: int,
    duels: Sequence[Duel],
    answers: Answers,
    *,
    first_slot_bias: float = 0.0,
    prior_sd: float = PRIOR_SD,
    start: Array | None = None,
) -> Fit:
    """Fit one prompt, [M] each.

    Args:
        completions: M.
        duels: Who met whom, in the order shown [D].
        answers: P(first is better) [D]; 0.5 a tie, None missing.
        first_slot_bias: The judge's known preference for the first slot [logit].
        prior_sd: Standard deviation of a score a priori [logit].
        start: Scores to start from [M], such as those of fewer duels; the result does not depend on
            them.
    """
    scores = map_scores(
        completions,
        duels,
        answers,
        first_slot_bias=first_slot_bias,
        prior_sd=prior_sd,
        start=start,
    )
    covariance = laplace_covariance(
        scores, duels, answers, first_slot_bias=first_slot_bias, prior_sd=prior_sd
    )
    return Fit(scores, centred_errors(covariance, prior_sd))


def map_scores(
    completions: int,
    duels: Sequence[Duel],
    answers: Answers,
    *,
    first_slot_bias: float,
    prior_sd: float,
    start: Array | None = None,
) -> Array:
    """The scores of `fit_duels` [M], for a strategy that fits after every round."""
    design, p_first = _design(completions, duels, answers)
    precision = _precision(prior_sd)
    scores: Array = np.zeros(completions) if start is None else start - start.mean()
    if not len(p_first):
        return np.zeros(completions)
    # The steps of `newton`, without its arrays of problems: for one prompt these took twice as
    # long, and a simulation makes hundreds of thousands of such fits.
    for _ in range(_MOST_STEPS):
        p = _sigmoid(design @ scores + first_slot_bias)
        step = np.linalg.solve(
            _dense_hessian(design, p, precision), (p_first - p) @ design - precision * scores
        )
        change = float(np.abs(design @ step).max())
        scores = scores + (step if change <= 1 else step * (np.log1p(change) / change))
        if change < _LAST_STEP:
            # Mean 0 but for rounding, and that must not grow where the prior is very weak.
            scores -= scores.mean()
            return scores
    raise ArithmeticError(f"no fit of {len(p_first)} duels after {_MOST_STEPS} steps{_ADVICE}")


def laplace_covariance(
    scores: Array,
    duels: Sequence[Duel],
    answers: Answers,
    *,
    first_slot_bias: float,
    prior_sd: float,
) -> Array:
    """Laplace's covariance of the scores of `map_scores`: H⁻¹ [M, M], not centred."""
    design, _ = _design(len(scores), duels, answers)
    p = _sigmoid(design @ scores + first_slot_bias)
    return _inverse(_dense_hessian(design, p, _precision(prior_sd)))


def _design(completions: int, duels: Sequence[Duel], answers: Answers) -> tuple[Array, Array]:
    """The answered duels: +1 for the first, -1 for the second [D, M]; P(first is better) [D]."""
    known = [(*duel, p) for duel, p in zip(duels, answers, strict=True) if p is not None]
    design = np.zeros((len(known), completions))
    if not known:
        return design, np.zeros(0)
    firsts, seconds, p_first = zip(*known, strict=True)
    rows = np.arange(len(known))
    design[rows, firsts] = 1.0
    design[rows, seconds] = -1.0
    return design, np.array(p_first, dtype=np.float64)


def _dense_hessian(design: Array, p: Array, precision: float) -> Array:
    hessian: Array = (design.T * (p * (1 - p))) @ design
    hessian.flat[:: len(hessian) + 1] += precision
    return hessian


def centred_errors(covariance: Array, prior_sd: float) -> Array:
    """The standard errors of `Fit` [..., M], from the covariance of the scores [..., M, M]."""
    variances = np.diagonal(covariance, axis1=-2, axis2=-1) - prior_sd**2 / covariance.shape[-1]
    errors: Array = np.sqrt(np.maximum(variances, 0.0))
    return errors


def _precision(prior_sd: float) -> float:
    if not 0 < prior_sd < np.inf:
        raise ValueError(f"prior_sd must be a positive finite number, got {prior_sd}")
    return prior_sd**-2


def _sigmoid(logits: Array) -> Array:
    # exp overflows far out, tanh does not.
    p: Array = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return p


def _inverse(hessian: Array) -> Array:
    return np.linalg.inv(hessian).astype(np.float64, copy=False)


class _Duels(NamedTuple):
    """Duels of n prompts, [n, D] each, and the slot bias; `known` is 1 where there is an answer."""

    first: Indices
    second: Indices
    p_first: Array
    known: Array
    bias: float

    def of_prompts(self, rows: Indices) -> "_Duels":
        if len(rows) == len(self.first):
            return self
        return _Duels(
            self.first[rows], self.second[rows], self.p_first[rows], self.known[rows], self.bias
        )

    def difference(self, values: Array) -> Array:
        """Value of the first minus value of the second [n, D]."""
        rows = np.arange(len(values))[:, None]
        difference: Array = values[rows, self.first] - values[rows, self.second]
        return difference

    def p_model(self, scores: Array) -> Array:
        """P(first wins) by these scores [n, D]."""
        return _sigmoid(self.difference(scores) + self.bias)

    def local_loss(self, scores: Array, precision: float) -> LocalLoss:
        """The negative log-posterior near these scores."""
        p = self.p_model(scores)
        n, m = scores.shape
        # Each duel's residual is added to its first and taken from its second.
        residuals = (self.known * (p - self.p_first)).ravel()
        row = np.arange(n)[:, None] * m
        gained = np.bincount((row + self.first).ravel(), residuals, n * m)
        lost = np.bincount((row + self.second).ravel(), residuals, n * m)
        return LocalLoss(
            gradient=(gained - lost).reshape(n, m) + precision * scores,
            hessian=self.hessian(scores, p, precision),
            logit_change=lambda step: np.abs(self.known * self.difference(step)).max(
                axis=1, initial=0.0
            ),
        )

    def hessian(self, scores: Array, p: Array, precision: float) -> Array:
        """Of the negative log-posterior [n, M, M]: a graph's Laplacian plus the prior."""
        n, m = scores.shape
        cell = (np.arange(n)[:, None] * m + self.first) * m + self.second
        weights = self.known * p * (1 - p)
        met = np.bincount(cell.ravel(), weights.ravel(), n * m * m).astype(np.float64)
        met = met.reshape(n, m, m)
        met = met + met.transpose(0, 2, 1)
        hessian = -met
        hessian.reshape(n, m * m)[:, :: m + 1] += met.sum(axis=2) + precision
        return hessian


def _fit(duels: _Duels, completions: int, prior_sd: float) -> Fit:
    precision = _precision(prior_sd)
    scores = newton(
        lambda scores, rows: duels.of_prompts(rows).local_loss(scores, precision),
        np.zeros((len(duels.first), completions)),
        most_steps=_MOST_STEPS,
        advice=_ADVICE,
    )
    covariance = _inverse(duels.hessian(scores, duels.p_model(scores), precision))
    return Fit(scores - scores.mean(axis=1, keepdims=True), centred_errors(covariance, prior_sd))
