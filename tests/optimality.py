"""An L1-penalised fit against the conditions of its minimum."""

import numpy as np
import numpy.typing as npt
from scipy.special import expit


def optimality_gap(
    features: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike,
    coefficients: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """The distance of coefficients from the Karush-Kuhn-Tucker conditions [B], in units of b.

    At the minimum the gradient g of the loss is -sign(b_k) where b_k is not 0, and within [-1, 1]
    where it is. The violation of each is divided by the loss's second derivative in b_k, which
    makes it a length of a Newton step; the largest one counts.
    """
    x, y, w = (np.asarray(given, dtype=np.float64) for given in (features, labels, weights))
    b = np.atleast_2d(np.asarray(coefficients, dtype=np.float64))
    p = expit(b @ x.T)
    gradient = (w * (p - y)) @ x
    curvature = (w * p * (1 - p)) @ (x**2)
    violation = np.where(b != 0, np.abs(gradient + np.sign(b)), np.maximum(np.abs(gradient) - 1, 0))
    largest: npt.NDArray[np.float64] = (violation / np.where(curvature > 0, curvature, 1.0)).max(
        axis=1
    )
    return largest
