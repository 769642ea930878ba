"""Damped Newton steps for fits of logistic losses: many small problems at once, or one."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]


class LocalLoss(NamedTuple):
    """A convex loss of K coefficients near the current ones, of n problems.

    Attributes:
        gradient: [n, K].
        hessian: [n, K, K], positive definite.
        logit_change: The largest change of any logit that a step [n, K] makes, as an absolute value
            [n]; of logits whose outcome is known.
        loss_change: By how much the loss changes with a step [n, K]; [n], more than 0 if it rises.
            Where it is given, a long step is taken in full if it lowers the loss enough.
    """

    gradient: Array
    hessian: Array
    logit_change: Callable[[Array], Array]
    loss_change: Callable[[Array], Array] | None = None


def newton_step(hessian: Array, gradient: Array, coefficients: Array) -> Array:
    """The step to the minimum of the quadratic model [n, K]."""
    solved = np.linalg.solve(hessian, -gradient[..., None])[..., 0]
    return solved.astype(np.float64, copy=False)


def newton(
    local_loss: Callable[[Array, Indices], LocalLoss],
    start: Array,
    *,
    last_step: float = 1e-5,
    most_steps: int = 500,
    step_of: Callable[[Array, Array, Array], Array] = newton_step,
    advice: str = "",
) -> Array:
    """The coefficients [B, K] that minimise each of B losses.

    The losses are sums of logistic losses, each a function of one logit that is linear in the
    coefficients, and of quadratic terms. Let d be the largest change of a logit that a step makes.
    The third derivative along the step is at most d times the second, so the step times
    log(1 + d) / d is sure to lower the loss, and for d <= 1 so is the full one. Steps with d > 1
    are shortened by that factor, which converges from every start.

    A problem is done after a full step with d < `last_step`. Then its distance to the minimum is at
    most d times the length of that step, both in the norm of the Hessian: with the default, 1e-5
    times a step that itself changed no logit by more than 1e-5.

    Args:
        local_loss: Called with coefficients [n, K] and the indices [n] of the problems that they
            belong to, which are those not done yet.
        start: Coefficients to start from [B, K]; the minimum does not depend on them.
        last_step: The d below which a problem is done [logit].
        most_steps: Steps before giving up.
        step_of: The full step [n, K] from Hessian, gradient and coefficients; for a penalty that
            has no gradient.
        advice: What the caller can do if the steps do not suffice, for the message.

    Raises:
        ArithmeticError: Some problem is not done after `most_steps`.
        numpy.linalg.LinAlgError: A Hessian is singular.
    Source: arXiv:1703.04599 (generalised self-concordant functions; section 4 for penalties).
    """
    found = np.array(start, dtype=np.float64)
    rows = np.arange(len(found))
    for _ in range(most_steps):
        if not len(rows):
            break
        here = found[rows]
        loss = local_loss(here, rows)
        step = step_of(loss.hessian, loss.gradient, here)
        change = loss.logit_change(step)
        full = change <= 1
        if loss.loss_change is not None and not full.all():
            # A tenth of what the slope promises: the usual condition of a line search.
            full |= loss.loss_change(step) <= 0.1 * (loss.gradient * step).sum(axis=1)
        share = np.where(full, 1.0, np.log1p(change) / np.maximum(change, 1.0))
        found[rows] = here + share[:, None] * step
        rows = rows[~(change < last_step)]
    if len(rows):
        raise ArithmeticError(
            f"no fit of {len(rows)} of {len(found)} problems after {most_steps} steps{advice}"
        )
    return found
