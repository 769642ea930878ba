"""Independent float64 numpy formulas of losses over single answers with a label or a reward.

policy and ref are summed log-probabilities [B] in nats, desirable is bool [B], u = policy - ref. A
function returns one value per answer, [B]. Written from METHODS.md only, never from the library.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reference import _f64, _minus_log_sigmoid, _sigmoid

Array = npt.NDArray[np.float64]


class Labelled(NamedTuple):
    """The answers of one step, each [B]."""

    policy: npt.ArrayLike
    ref: npt.ArrayLike
    desirable: npt.ArrayLike


def kto_baseline(mismatched_logratio: npt.ArrayLike) -> float:
    """z0 = max(0, mean of log pi(y' | x) - log ref(y' | x)), y' the answer of another prompt.

    The mean is over every mismatched pair of the step, of all processes; z0 is not times beta and
    no gradient passes through it.
    """
    values = np.asarray(mismatched_logratio, dtype=np.float64).ravel()
    return max(0.0, math.fsum(values) / values.size)


def kto(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    desirable: npt.ArrayLike,
    *,
    mismatched_logratio: npt.ArrayLike,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Array:
    """w_d (1 - s(beta (u - z0))) if desirable, else w_u (1 - s(beta (z0 - u)))."""
    x = beta * (_logratio(policy, ref) - kto_baseline(mismatched_logratio))
    return np.where(
        np.asarray(desirable, dtype=bool),
        desirable_weight * _sigmoid(-x),
        undesirable_weight * _sigmoid(x),
    )


def bco_unpaired(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    desirable: npt.ArrayLike,
    *,
    beta: float,
    delta: float,
) -> Array:
    """-log s(beta u - delta) if desirable, else -log s(delta - beta u)."""
    x = beta * _logratio(policy, ref) - delta
    return np.where(
        np.asarray(desirable, dtype=bool), _minus_log_sigmoid(x), _minus_log_sigmoid(-x)
    )


def running_deltas(steps: Sequence[Labelled], *, beta: float) -> list[float]:
    """After each step, the mean of the rewards beta u of all answers so far, of both labels."""
    seen: list[float] = []
    deltas = []
    for step in steps:
        seen.extend((beta * _logratio(step.policy, step.ref)).ravel().tolist())
        deltas.append(math.fsum(seen) / len(seen))
    return deltas


def bco_unpaired_run(
    steps: Sequence[Labelled], *, beta: float, current_counts: bool = True
) -> list[Array]:
    """bco_unpaired of each step at the running delta, with this step's answers in the mean.

    current_counts = False takes the delta of the steps before; the first then has 0.
    """
    after = running_deltas(steps, beta=beta)
    used = after if current_counts else [0.0, *after[:-1]]
    return [bco_unpaired(*step, beta=beta, delta=d) for step, d in zip(steps, used, strict=True)]


def dro(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    rewards: npt.ArrayLike,
    *,
    value: npt.ArrayLike,
    tau: float,
) -> Array:
    """(r - V - tau u)^2 / 2, V = value: one number, or one per answer."""
    residual = _f64(rewards) - _f64(value) - tau * _logratio(policy, ref)
    return np.square(residual) / 2.0


def dro_value(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    rewards: npt.ArrayLike,
    prompts: npt.ArrayLike,
    *,
    tau: float,
) -> Array:
    """[B]: V = mean of r - tau u over the answers of the same prompt, prompts [B] naming it."""
    left = _f64(rewards) - tau * _logratio(policy, ref)
    names = np.asarray(prompts)
    return np.array([math.fsum(left[names == n]) / np.count_nonzero(names == n) for n in names])


def dro_baseline(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    rewards: npt.ArrayLike,
    prompts: npt.ArrayLike,
    *,
    tau: float,
) -> Array:
    """dro at V = dro_value, a constant for the gradient."""
    value = dro_value(policy, ref, rewards, prompts, tau=tau)
    return dro(policy, ref, rewards, value=value, tau=tau)


def _logratio(policy: npt.ArrayLike, ref: npt.ArrayLike) -> Array:
    return _f64(policy) - _f64(ref)
