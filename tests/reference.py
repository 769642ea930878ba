"""Independent float64 numpy formulas of losses, regularizers and ranking figures, to test the library against.

Log-probabilities are summed over a completion, in nats, [B]; token counts are [B]. A `*_grad` function is the
hand-derived gradient of the *sum* of its function's values, so row i depends on pair i alone.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Grad(NamedTuple):
    """Gradient with respect to the policy's log-probabilities, each [B]."""

    policy_chosen: Array
    policy_rejected: Array


class Toy(NamedTuple):
    """Where the toy run ended: mean drop of the chosen log-probability over the last steps, and the last margin."""

    drop: float
    margin: float


def dpo(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    *,
    beta: float,
) -> Array:
    """-log sigmoid(beta * D), [B]. Source: arXiv:2305.18290, eq. 7."""
    return _minus_log_sigmoid(beta * _margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected))


def dpo_grad(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    *,
    beta: float,
) -> Grad:
    """-beta * sigmoid(-beta * D) for the chosen side, its opposite for the rejected one."""
    push = beta * _sigmoid(-beta * _margin(policy_chosen, policy_rejected, ref_chosen, ref_rejected))
    return Grad(-push, push)


def ipo(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    rejected_tokens: npt.ArrayLike,
    *,
    beta: float,
    average: Literal["token", "sum"],
) -> Array:
    """(D - 1 / (2 beta))^2, [B]; "token" averages each log-ratio over its own completion.

    Source: arXiv:2310.12036, eq. 17 ("sum").
    """
    chosen_scale, rejected_scale = _ipo_scales(chosen_tokens, rejected_tokens, average)
    chosen_ratio = _f64(policy_chosen) - _f64(ref_chosen)
    rejected_ratio = _f64(policy_rejected) - _f64(ref_rejected)
    return np.square(chosen_scale * chosen_ratio - rejected_scale * rejected_ratio - 1.0 / (2.0 * beta))


def ipo_grad(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    rejected_tokens: npt.ArrayLike,
    *,
    beta: float,
    average: Literal["token", "sum"],
) -> Grad:
    """2 (D - 1 / (2 beta)) times the weight of each side."""
    chosen_scale, rejected_scale = _ipo_scales(chosen_tokens, rejected_tokens, average)
    chosen_ratio = _f64(policy_chosen) - _f64(ref_chosen)
    rejected_ratio = _f64(policy_rejected) - _f64(ref_rejected)
    residual = chosen_scale * chosen_ratio - rejected_scale * rejected_ratio - 1.0 / (2.0 * beta)
    return Grad(2.0 * residual * chosen_scale, -2.0 * residual * rejected_scale)


def simpo(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    rejected_tokens: npt.ArrayLike,
    *,
    beta: float,
    gamma: float,
) -> Array:
    """-log sigmoid(beta * (lw / |w| - ll / |l|) - gamma), [B]. Source: arXiv:2405.14734, eq. 6."""
    return _minus_log_sigmoid(
        beta * (_f64(policy_chosen) / _f64(chosen_tokens) - _f64(policy_rejected) / _f64(rejected_tokens)) - gamma
    )


def simpo_grad(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    rejected_tokens: npt.ArrayLike,
    *,
    beta: float,
    gamma: float,
) -> Grad:
    """Logistic slope, divided by each side's own token count: a long rejected one is pushed less."""
    mean_gap = _f64(policy_chosen) / _f64(chosen_tokens) - _f64(policy_rejected) / _f64(rejected_tokens)
    push = beta * _sigmoid(gamma - beta * mean_gap)
    return Grad(-push / _f64(chosen_tokens), push / _f64(rejected_tokens))


def nll(policy_chosen: npt.ArrayLike, chosen_tokens: npt.ArrayLike, *, reduction: Literal["sum", "mean"]) -> Array:
    """-lw ("sum") or -lw / |w| ("mean", over the completion's own tokens), [B]."""
    return -_f64(policy_chosen) * _per_token(chosen_tokens, reduction == "mean")


def nll_grad(policy_chosen: npt.ArrayLike, chosen_tokens: npt.ArrayLike, *, reduction: Literal["sum", "mean"]) -> Grad:
    """-1 or -1 / |w| for the chosen side, nothing for the rejected one."""
    scale = np.broadcast_to(_per_token(chosen_tokens, reduction == "mean"), _f64(policy_chosen).shape)
    return Grad(-scale, np.zeros_like(scale))


def budget(
    policy_chosen: npt.ArrayLike,
    initial_chosen: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    *,
    delta: float,
    per: Literal["sequence", "token"],
) -> Array:
    """max(0, drop - delta), drop = initial - policy, divided by |w| for "token", [B].

    Source: our reading of arXiv:2411.05875.
    """
    drop = (_f64(initial_chosen) - _f64(policy_chosen)) * _per_token(chosen_tokens, per == "token")
    return np.maximum(0.0, drop - delta)


def budget_grad(
    policy_chosen: npt.ArrayLike,
    initial_chosen: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    *,
    delta: float,
    per: Literal["sequence", "token"],
) -> Grad:
    """The gradient of the NLL outside the budget; exactly nothing inside it and on its edge."""
    scale = _per_token(chosen_tokens, per == "token")
    drop = (_f64(initial_chosen) - _f64(policy_chosen)) * scale
    chosen = np.where(drop > delta, -scale, 0.0)
    return Grad(chosen, np.zeros_like(chosen))


def objective(values: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Weighted mean of per-pair values."""
    return float(np.sum(_f64(weights) * _f64(values)) / np.sum(_f64(weights)))


def toy(delta: float, lam: float, *, beta: float = 0.5, lr: float = 0.01, steps: int = 20_000) -> Toy:
    """DPO with a budget by gradient descent on a softmax over three outcomes whose logits are features @ theta.

    The first outcome is the chosen one, the second the rejected one; the reference is theta = 0. The drop is
    the mean over the last 2,000 steps: at the end the hinge chatters in a band of width O(lr * lam) around delta.
    """
    features = np.array([[1.0, 0.1], [1.0, -0.1], [0.0, 5.0]])
    theta = np.zeros(2)
    ref_chosen = -np.log(3.0)
    preferred = features[0] - features[1]
    drops = np.empty(steps)
    for step in range(steps):
        logits = features @ theta
        log_z = np.logaddexp.reduce(logits)
        drop = ref_chosen - (logits[0] - log_z)
        gradient = -beta * _sigmoid(-beta * (preferred @ theta)) * preferred
        if drop > delta:
            gradient = gradient - lam * (features[0] - np.exp(logits - log_z) @ features)
        theta = theta - lr * gradient
        logits = features @ theta
        drops[step] = ref_chosen - (logits[0] - np.logaddexp.reduce(logits))
    return Toy(float(drops[-2_000:].mean()), float(preferred @ theta))


def scan_p_best(m: int, q: float) -> float:
    """Probability that a scan of m completions in random order ends with the best; each duel is right with chance q.

    The best one, met as number k, must win m - k + 1 duels, and m - 1 if it is the first champion.
    """
    return float((q ** (m - 1) + sum(q ** (m - k + 1) for k in range(2, m + 1))) / m)


def _f64(values: npt.ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def _minus_log_sigmoid(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, -x), dtype=np.float64)


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0.0, -x)), dtype=np.float64)


def _margin(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
) -> Array:
    return (_f64(policy_chosen) - _f64(ref_chosen)) - (_f64(policy_rejected) - _f64(ref_rejected))


def _per_token(tokens: npt.ArrayLike, averaged: bool) -> Array:
    return 1.0 / _f64(tokens) if averaged else np.ones_like(_f64(tokens))


def _ipo_scales(
    chosen_tokens: npt.ArrayLike, rejected_tokens: npt.ArrayLike, average: Literal["token", "sum"]
) -> tuple[Array, Array]:
    return _per_token(chosen_tokens, average == "token"), _per_token(rejected_tokens, average == "token")
