"""Unpenalised logistic regression, exact; an error where no finite fit exists."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import regression_rows
from prefine.newton import Array, Indices, LocalLoss, newton

_LAST_STEP = 1e-5
_MOST_STEPS = 200
_ROUNDING = 1e-9


class NoFiniteFitError(ValueError):
    """The likelihood has no single finite maximum: separated outcomes or dependent features."""


class LogisticFit(NamedTuple):
    """A maximum of the likelihood.

    Attributes:
        coefficients: [K], in the order of the features.
        covariance: Inverse of the negative log-likelihood's Hessian [K, K]; a covariance if rows
            are independent.
    """

    coefficients: Array
    covariance: Array


def logistic_regression(
    features: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    names: Sequence[str] | None = None,
    start: Array | None = None,
) -> LogisticFit:
    """The coefficients b [K] of the maximum of the weighted likelihood.

    It is sum_i w_i [y_i log sigmoid(x_i b) + (1 - y_i) log sigmoid(-x_i b)].

    Found by Newton's method, as `prefine.newton` says. There is no intercept unless a feature is 1
    everywhere.

    Args:
        features: [N, K].
        outcomes: [N], in [0, 1]; 0.5 a tie, other values a target of the cross-entropy.
        weights: How much each row counts [N], not negative; None is 1.
        names: Names of the features [K], for messages.
        start: Coefficients to start from [K]; the result does not depend on them.

    Raises:
        NoFiniteFitError: The outcomes are separated: some direction of the coefficients predicts
            them ever better without end. Or a feature is a combination of others, so that many
            coefficients fit equally well.
        ValueError: Shapes that do not fit, a value that is not finite, an outcome outside [0, 1], a
            negative weight.
    """
    x, y, w = regression_rows(features, outcomes, weights)
    if not (w > 0).any():
        raise ValueError("all weights are 0, so there is nothing to fit")
    labels = list(names) if names is not None else [f"feature {k}" for k in range(x.shape[1])]
    x, y, w = x[w > 0], y[w > 0], w[w > 0]
    _refuse_dependent(x, labels)
    side = np.where(y == 1, 1.0, -1.0)
    soft = (y > 0) & (y < 1)

    def local_loss(coefficients: Array, _: Indices) -> LocalLoss:
        logits = x @ coefficients[0]
        q = 0.5 + 0.5 * np.tanh(0.5 * logits)
        gradient = x.T @ (w * (q - y))

        def logit_change(step: Array) -> Array:
            change = x @ step[0]
            size = np.abs(change).max()
            # A long step that moves every row to its outcome's side, but for rounding, is a
            # direction in which the likelihood rises without end.
            towards = np.where(soft, -np.abs(change), side * change)
            if size >= _LAST_STEP and towards.min() >= -_ROUNDING * size:
                raise NoFiniteFitError(_separated(x, step[0], labels))
            return np.array([size])

        def loss_change(step: Array) -> Array:
            there = logits + x @ step[0]
            loss = np.logaddexp(0, there) - np.logaddexp(0, logits) - y * (there - logits)
            return np.array([w @ loss])

        return LocalLoss(
            gradient[None], ((x.T * (w * q * (1 - q))) @ x)[None], logit_change, loss_change
        )

    first = np.zeros(x.shape[1]) if start is None else start
    try:
        found = newton(local_loss, first[None], last_step=_LAST_STEP, most_steps=_MOST_STEPS)
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise NoFiniteFitError(
            f"no logistic fit of {len(y)} rows after {_MOST_STEPS} steps; the features hardly "
            "identify it"
        ) from error
    (hessian,) = local_loss(found, np.arange(1)).hessian
    return LogisticFit(found[0], np.linalg.inv(hessian).astype(np.float64, copy=False))


def _refuse_dependent(x: Array, labels: list[str]) -> None:
    scale = np.sqrt((x**2).sum(axis=0))
    scaled = x / np.where(scale > 0, scale, 1.0)
    if np.linalg.matrix_rank(scaled, tol=1e-9) == x.shape[1]:
        return
    # The first column that adds nothing to those before it.
    k = next(
        k for k in range(x.shape[1]) if np.linalg.matrix_rank(scaled[:, : k + 1], tol=1e-9) <= k
    )
    raise NoFiniteFitError(
        f"{labels[k]} is the same in all {len(x)} rows as a combination of "
        f"{', '.join(labels[:k]) or 'nothing'}: "
        "its coefficient cannot be told from theirs"
    )


def _separated(x: Array, step: Array, labels: list[str]) -> str:
    moved = np.abs(x * step).max(axis=0)
    names = [label for label, size in zip(labels, moved, strict=True) if size > 1e-3 * moved.max()]
    return (
        f"the outcomes of {len(x)} rows are separated by {', '.join(names)}: the likelihood rises "
        "without end and no "
        "finite fit exists; add rows, or take these features out"
    )
