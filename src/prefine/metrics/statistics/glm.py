"""L1-penalised logistic regression of a few coefficients, for many weightings at once."""

import itertools

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import regression_rows
from prefine.newton import Array, Indices, LocalLoss, newton

STRENGTHS: Array = np.logspace(-4, 4, 10)
"""The values of C that cross-validation chooses from."""

FOLDS = 5

_LAST_STEP = 1e-6
# Keeps the quadratic model definite where a column is 0 or repeats another; what is found does not
# depend on it.
_RIDGE = 1e-12
_SLACK = 1e-9
_ROWS_AT_ONCE = 50_000


def penalised_logistic(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike,
    *,
    start: npt.ArrayLike | None = None,
) -> Array:
    """The coefficients b [B, K] of L1-penalised logistic regressions, exact.

    They minimise sum_k |b_k| + sum_i w_i [log(1 + e^(x_i b)) - y_i x_i b].

    One problem for each of the B rows of weights, all on the same features and labels. Found by the
    steps of `prefine.newton`, until one changes no logit by 1e-6; each is to the exact minimum of
    the quadratic model with its L1 term, which is found by the signs of the coefficients.

    Args:
        features: x [N, K]; K is small, as time grows with 3^K in the worst case.
        labels: y [N], in [0, 1].
        weights: w [B, N] or [N], not negative; the strength C times a row's own weight.
        start: Coefficients to start from [K] or [B, K]; the result does not depend on them.

    Raises:
        ValueError: Shapes that do not fit, a value that is not finite, a label outside [0, 1], a
            negative weight; or no convergence.
    """
    x, y, w = regression_rows(features, labels, weights)
    w = np.atleast_2d(w)
    found = np.zeros((len(w), x.shape[1]))
    if start is not None:
        found += np.asarray(start, dtype=np.float64)
    step = max(1, _ROWS_AT_ONCE // max(1, len(y)))
    for begin in range(0, len(w), step):
        block = slice(begin, begin + step)
        found[block] = _descend(x, y, w[block], found[block])
    return found


def cross_validated_strength(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    row_weights: npt.ArrayLike,
) -> float:
    """The C with the best mean score over `FOLDS` folds; row r of N is in fold (N - 1 - r) mod 5.

    The score of a fold is minus the mean of s_i [log(1 + e^(z_i)) - y_i z_i] over its rows,
    probabilities clipped at 1e-15; of equal scores the smallest C wins.

    Args:
        features: [N, K].
        labels: [N], in [0, 1].
        row_weights: s [N], not negative.

    Raises:
        ValueError: As for `penalised_logistic`, or fewer rows than folds.
    Source: upstream's `GroupKFold` over rows, https://github.com/tatsu-lab/alpaca_eval,
        `glm_winrate.py`.
    """
    from scipy.special import expit

    x, y, rows = regression_rows(features, labels, row_weights)
    if len(y) < FOLDS:
        raise ValueError(
            f"cross-validation in {FOLDS} folds needs as many rows, got {len(y)}; give the "
            "strength C"
        )
    fold = np.arange(len(y))[::-1] % FOLDS
    held_out = fold == np.arange(FOLDS)[:, None]
    score = np.zeros(len(STRENGTHS))
    # From the strongest penalty, each fold's fit is where the next one starts.
    found = np.zeros((FOLDS, x.shape[1]))
    for k in range(len(STRENGTHS)):
        found = penalised_logistic(x, y, STRENGTHS[k] * rows * ~held_out, start=found)
        for out, b in zip(held_out, found, strict=True):
            p = np.clip(expit(x[out] @ b), 1e-15, 1 - 1e-15)
            loss = y[out] * np.log(p) + (1 - y[out]) * np.log1p(-p)
            score[k] += float(np.mean(rows[out] * loss)) / FOLDS
    return float(STRENGTHS[int(np.argmax(score))])


def _descend(x: Array, y: Array, weights: Array, start: Array) -> Array:
    """The solutions of the problems of a block."""
    from scipy.special import expit

    k = x.shape[1]
    upper = np.triu_indices(k)
    products = x[:, upper[0]] * x[:, upper[1]]
    target = (weights * y) @ x

    def local_loss(b: Array, rows: Indices) -> LocalLoss:
        p = expit(b @ x.T)
        wp = weights[rows] * p
        hessian = np.empty((len(rows), k, k))
        hessian[:, upper[0], upper[1]] = hessian[:, upper[1], upper[0]] = (wp - wp * p) @ products
        return LocalLoss(
            wp @ x - target[rows], hessian, lambda step: np.abs(step @ x.T).max(axis=1)
        )

    try:
        return newton(
            local_loss,
            start,
            last_step=_LAST_STEP,
            step_of=lambda hessian, gradient, b: _model_minimum(hessian, gradient, b) - b,
        )
    except ArithmeticError as error:
        raise ValueError(
            f"{error} on {len(y)} rows; are the weights of a sensible size?"
        ) from error


def _model_minimum(hessian: Array, gradient: Array, b: Array) -> Array:
    """The u [B, K] that minimise u'Hu/2 + (g - Hb)'u + sum |u_k|."""
    k = b.shape[1]
    diagonal = np.arange(k)
    hessian[:, diagonal, diagonal] += _RIDGE * np.trace(hessian, axis1=1, axis2=2)[:, None] + 1e-300
    pull = np.einsum("bij,bj->bi", hessian, b) - gradient
    # Near the end the signs stay what they are; otherwise, every combination of signs.
    u, violation = _with_signs(hessian, pull, np.sign(b))
    worst = violation.max(axis=1)
    wrong = np.flatnonzero(worst > _SLACK)
    if wrong.size:
        best = np.full(wrong.size, np.inf)
        for signs in itertools.product((0.0, 1.0, -1.0), repeat=k):
            trial, violation = _with_signs(
                hessian[wrong], pull[wrong], np.broadcast_to(signs, (wrong.size, k))
            )
            worst = violation.max(axis=1)
            better = worst < best
            u[wrong[better]] = trial[better]
            best = np.minimum(best, worst)
            if (best <= _SLACK).all():
                break
    return u


def _with_signs(hessian: Array, pull: Array, signs: Array) -> tuple[Array, Array]:
    """The stationary point for given signs [B, K], and the violation of each condition [B, K]."""
    free = signs != 0
    size = np.einsum("bii->bi", hessian)
    # Rows and columns of coefficients that are 0 become those of a diagonal matrix.
    system = np.where(free[:, :, None] & free[:, None, :], hessian, 0.0)
    diagonal = np.arange(hessian.shape[1])
    system[:, diagonal, diagonal] = np.where(free, size, 1.0)
    u: Array = np.linalg.solve(system, np.where(free, pull - signs, 0.0)[:, :, None])[:, :, 0]
    slack = np.abs(pull - np.einsum("bij,bj->bi", hessian, u)) - 1
    return u, np.where(free, np.maximum(-signs * u, 0.0), np.maximum(slack, 0.0))
