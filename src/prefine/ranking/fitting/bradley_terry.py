"""Bradley-Terry scores from duels: the maximum a posteriori fit, for one prompt or for thousands at once.

P(first wins) = sigmoid(s_first - s_second + first_slot_bias), each score s ~ N(0, prior_sd²) a
priori. The posterior is strictly log-concave, so there is one maximum, it is finite whatever the
duels say, and it does not depend on their order. Its scores sum to zero in every group of
completions that duels connect: completions of different groups are comparable through the prior
only, and one without any duel has the prior's score, 0.

Newton's method finds it. With d the largest change of a duel's logit that a step makes, the full
step is sure to climb for d < 1.79, and the step times log(1 + d) / d for every d (the third
derivative of the logistic loss along the step is at most d times its second). So taking the latter
for d > 1 converges from every start.

Source: Bradley and Terry 1952; the damped step, arXiv:1703.04599 (generalised self-concordant
    functions).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.ranking.protocol import Duel

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

PRIOR_SD = 1.5
"""A weak prior [logit]: it keeps a few verdicts from counting as certainty.

What a wider one, and a bias that is not told, cost `top_two` is printed by the row `why` of
benchmarks/ranking.py.
"""

# The error after a full step is below the step's square: 1e-10 after one of 1e-5.
_LAST_STEP = 1e-5
# Ten or so are usual; a bias of 800 logits against hard answers and a prior of 100 take 850.
_MOST_STEPS = 5000
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
    """The fit of N prompts, [N, M] each.

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
    fits = [
        _fit_block(
            first[n : n + _BLOCK].astype(np.intp),
            second[n : n + _BLOCK].astype(np.intp),
            p_first[n : n + _BLOCK],
            completions,
            first_slot_bias,
            prior_sd,
        )
        for n in range(0, len(first), _BLOCK)
    ]
    nothing = np.zeros((0, completions))
    return Fit(
        np.concatenate([nothing, *(fit.scores for fit in fits)]),
        np.concatenate([nothing, *(fit.standard_errors for fit in fits)]),
    )


def fit_duels(
    completions: int,
    duels: Sequence[Duel],
    answers: Sequence[float | None],
    *,
    first_slot_bias: float = 0.0,
    prior_sd: float = PRIOR_SD,
    start: Array | None = None,
) -> Fit:
    """The fit of one prompt, [M] each.

    Args:
        completions: M.
        duels: Who met whom, in the order shown [D].
        answers: P(first is better) [D]; 0.5 a tie, None missing.
        first_slot_bias: The judge's known preference for the first slot [logit].
        prior_sd: Standard deviation of a score a priori [logit].
        start: Scores to start from [M], such as those of fewer duels; the result does not depend on
            them.
    """
    scores, covariance = posterior(
        completions, duels, answers, first_slot_bias=first_slot_bias, prior_sd=prior_sd, start=start
    )
    return Fit(scores, _centred_errors(covariance, prior_sd))


def posterior(
    completions: int,
    duels: Sequence[Duel],
    answers: Sequence[float | None],
    *,
    first_slot_bias: float = 0.0,
    prior_sd: float = PRIOR_SD,
    start: Array | None = None,
) -> tuple[Array, Array]:
    """The scores of `fit_duels` [M], and Laplace's covariance of the scores H⁻¹ [M, M], not centred."""
    design, p = _design(completions, duels, answers)
    precision = _precision(prior_sd)
    scores = _climb(design, p, first_slot_bias, precision, start)
    q = _sigmoid(design @ scores + first_slot_bias)
    return scores, _inverse(_hessian(design, q * (1 - q), precision))


def map_scores(
    completions: int,
    duels: Sequence[Duel],
    answers: Sequence[float | None],
    *,
    first_slot_bias: float = 0.0,
    prior_sd: float = PRIOR_SD,
    start: Array | None = None,
) -> Array:
    """The scores of `fit_duels` [M], for a strategy that fits after every round."""
    design, p = _design(completions, duels, answers)
    return _climb(design, p, first_slot_bias, _precision(prior_sd), start)


def _precision(prior_sd: float) -> float:
    if not 0 < prior_sd < np.inf:
        raise ValueError(f"prior_sd must be a positive finite number, got {prior_sd}")
    return prior_sd**-2


def _sigmoid(z: Array) -> Array:
    # exp overflows far out, tanh does not.
    p: Array = 0.5 + 0.5 * np.tanh(0.5 * z)
    return p


def _inverse(hessian: Array) -> Array:
    return np.linalg.inv(hessian).astype(np.float64, copy=False)


def _centred_errors(covariance: Array, prior_sd: float) -> Array:
    variances = np.diagonal(covariance, axis1=-2, axis2=-1) - prior_sd**2 / covariance.shape[-1]
    errors: Array = np.sqrt(np.maximum(variances, 0.0))
    return errors


def _design(
    completions: int, duels: Sequence[Duel], answers: Sequence[float | None]
) -> tuple[Array, Array]:
    """The answered duels: +1 for the first, -1 for the second [D, M], and P(first is better) [D]."""
    known = [
        (first, second, p)
        for (first, second), p in zip(duels, answers, strict=True)
        if p is not None
    ]
    design = np.zeros((len(known), completions))
    if not known:
        return design, np.zeros(0)
    firsts, seconds, p = zip(*known, strict=True)
    rows = np.arange(len(known))
    design[rows, firsts] = 1.0
    design[rows, seconds] = -1.0
    return design, np.array(p, dtype=np.float64)


def _hessian(design: Array, weights: Array, precision: float) -> Array:
    hessian: Array = (design.T * weights) @ design
    hessian.flat[:: len(hessian) + 1] += precision
    return hessian


def _climb(design: Array, p: Array, bias: float, precision: float, start: Array | None) -> Array:
    scores: Array = np.zeros(design.shape[1]) if start is None else start - start.mean()
    if not len(p):
        return np.zeros_like(scores)
    for _ in range(_MOST_STEPS):
        q = _sigmoid(design @ scores + bias)
        step = np.linalg.solve(
            _hessian(design, q * (1 - q), precision), (p - q) @ design - precision * scores
        )
        change = float(np.abs(design @ step).max())
        scores = scores + (step if change <= 1 else step * (np.log1p(change) / change))
        if change < _LAST_STEP:
            # Mean 0 but for rounding, and that must not grow where the prior is very weak.
            scores -= scores.mean()
            return scores
    raise ArithmeticError(
        f"no Bradley-Terry fit of {len(p)} duels after {_MOST_STEPS} steps; take a smaller prior_sd"
    )


class _FitBlock(NamedTuple):
    """Duels of some prompts: who was first, who second, P(first is better), and 1 where that is known, [n, D] each."""

    first: Indices
    second: Indices
    p: Array
    known: Array

    def of(self, rows: Indices) -> "_FitBlock":
        """The duels of these prompts."""
        return _FitBlock(self.first[rows], self.second[rows], self.p[rows], self.known[rows])

    def change(self, scores: Array) -> Array:
        """Score of the first minus score of the second [n, D]."""
        rows = np.arange(len(scores))[:, None]
        change: Array = scores[rows, self.first] - scores[rows, self.second]
        return change


def _fit_block(
    first: Indices, second: Indices, p_first: Array, completions: int, bias: float, prior_sd: float
) -> Fit:
    known = ~np.isnan(p_first)
    block = _FitBlock(first, second, np.where(known, p_first, 0.5), known.astype(np.float64))
    precision = _precision(prior_sd)
    scores = np.zeros((len(first), completions))
    rows, left = np.arange(len(first)), block
    for _ in range(_MOST_STEPS):
        here = scores[rows]
        q = _sigmoid(left.change(here) + bias)
        gradient = _spread(left, left.known * (left.p - q), completions) - precision * here
        hessian = _hessians(left, left.known * q * (1 - q), completions, precision)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0].astype(np.float64, copy=False)
        change = np.abs(left.known * left.change(step)).max(axis=1, initial=0.0)
        scores[rows] = (
            here
            + step * np.where(change <= 1, 1.0, np.log1p(change) / np.maximum(change, 1.0))[:, None]
        )
        going = np.flatnonzero(change >= _LAST_STEP)
        rows, left = rows[going], left.of(going)
        if not len(rows):
            break
    else:
        raise ArithmeticError(
            f"no Bradley-Terry fit of {len(rows)} prompts after {_MOST_STEPS} steps; take a "
            "smaller prior_sd"
        )
    q = _sigmoid(block.change(scores) + bias)
    covariance = _inverse(_hessians(block, block.known * q * (1 - q), completions, precision))
    return Fit(scores - scores.mean(axis=1, keepdims=True), _centred_errors(covariance, prior_sd))


def _spread(block: _FitBlock, values: Array, completions: int) -> Array:
    """Each duel's value added to its first and taken from its second [n, M]."""
    n = len(values)
    row = np.arange(n)[:, None] * completions
    gained = np.bincount((row + block.first).ravel(), values.ravel(), n * completions)
    lost = np.bincount((row + block.second).ravel(), values.ravel(), n * completions)
    return (gained - lost).astype(np.float64).reshape(n, completions)


def _hessians(block: _FitBlock, weights: Array, completions: int, precision: float) -> Array:
    """The Hessian of the negative log-posterior [n, M, M]: a graph's Laplacian plus the prior."""
    n, m = len(weights), completions
    cell = (np.arange(n)[:, None] * m + block.first) * m + block.second
    met = np.bincount(cell.ravel(), weights.ravel(), n * m * m).astype(np.float64).reshape(n, m, m)
    met += met.transpose(0, 2, 1).copy()
    hessian = -met
    hessian.reshape(n, m * m)[:, :: m + 1] += met.sum(axis=2) + precision
    return hessian
