"""Independent float64 numpy formulas of losses over one list of C answers to one prompt.

policy and ref are summed log-probabilities [C] in nats, labels are the ranking's scores [C] (more
is better) and s = beta (policy - ref). Every function returns one float. Best first and rank 1 are
by descending value; of equal values the one that stands earlier comes first. Written from
METHODS.md only, never from the library.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from reference import _f64, _minus_log_sigmoid, _sigmoid

Array = npt.NDArray[np.float64]
Reduction = Literal["sum", "mean"]

SWEEPS = 50
SMALLEST_SUM = 1e-10


def scores(policy: npt.ArrayLike, ref: npt.ArrayLike, *, beta: float) -> Array:
    """beta (policy - ref), [C]."""
    return beta * (_f64(policy) - _f64(ref))


def gains(labels: npt.ArrayLike) -> Array:
    """2^psi - 1."""
    return np.exp2(_f64(labels)) - 1.0


def discounts(size: int) -> Array:
    """1 / log2(j + 1) of the ranks j = 1..size."""
    return 1.0 / np.log2(np.arange(2, size + 2, dtype=np.float64))


def idcg(labels: npt.ArrayLike, *, k: int | None = None) -> float:
    """Sum of the k largest gains times the discounts of their ranks; k = None: all."""
    best = np.sort(gains(labels))[::-1]
    return math.fsum((best * discounts(best.size))[:k])


def ndcg(values: npt.ArrayLike, labels: npt.ArrayLike, *, k: int | None = None) -> float:
    """Sum of gain times discount over ranks up to k, by descending values, by IDCG at k."""
    order = best_first(values)
    reached = math.fsum((gains(labels)[order] * discounts(order.size))[:k])
    return reached / idcg(labels, k=k)


def neural_sort(values: npt.ArrayLike, *, tau: float) -> Array:
    """P[i, j] = softmax over j of ((C + 1 - 2 i) s_j - sum_m |s_j - s_m|) / tau, i = 1 on top."""
    s = _f64(values)
    apart = np.abs(s[:, None] - s[None, :]).sum(axis=0)
    factor = s.size + 1.0 - 2.0 * np.arange(1, s.size + 1)
    return np.exp(_log_softmax((factor[:, None] * s[None, :] - apart[None, :]) / tau))


def sinkhorn(matrix: npt.ArrayLike, *, sweeps: int = SWEEPS) -> Array:
    """sweeps times: divide each column, then each row, by its sum; no sum counts below 1e-10.

    There is no early stop: the value of a list depends on that list alone.
    """
    p = _f64(matrix)
    for _ in range(sweeps):
        p = p / np.maximum(p.sum(axis=0, keepdims=True), SMALLEST_SUM)
        p = p / np.maximum(p.sum(axis=1, keepdims=True), SMALLEST_SUM)
    return p


def neural_ndcg_of_scores(
    s: npt.ArrayLike, labels: npt.ArrayLike, *, tau: float, epsilon: float = 1e-10
) -> float:
    """-sum_i d_i (P g)_i / (IDCG + epsilon), P = sinkhorn(neural_sort(s)); 0 where IDCG <= 0."""
    best = idcg(labels)
    if best <= 0.0:
        return 0.0
    p = sinkhorn(neural_sort(s, tau=tau))
    return -math.fsum(discounts(len(p)) * (p @ gains(labels))) / (best + epsilon)


def neural_ndcg(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    beta: float,
    tau: float,
    epsilon: float = 1e-10,
) -> float:
    """neural_ndcg_of_scores at s = beta (policy - ref). Source: arXiv:2410.04346."""
    s = scores(policy, ref, beta=beta)
    return neural_ndcg_of_scores(s, labels, tau=tau, epsilon=epsilon)


def approx_ndcg_of_scores(s: npt.ArrayLike, labels: npt.ArrayLike, *, alpha: float) -> float:
    """-sum_i (g_i / IDCG) / log2(1 + pos_i), pos_i = 1/2 + sum_j s(alpha (s_j - s_i)), j = i too.

    0 where IDCG <= 0.
    """
    best = idcg(labels)
    if best <= 0.0:
        return 0.0
    s = _f64(s)
    positions = 0.5 + _sigmoid(alpha * (s[None, :] - s[:, None])).sum(axis=1)
    return -math.fsum(gains(labels) / best / np.log2(1.0 + positions))


def approx_ndcg(
    policy: npt.ArrayLike, ref: npt.ArrayLike, labels: npt.ArrayLike, *, beta: float, alpha: float
) -> float:
    """approx_ndcg_of_scores at s = beta (policy - ref)."""
    return approx_ndcg_of_scores(scores(policy, ref, beta=beta), labels, alpha=alpha)


def list_mle(
    policy: npt.ArrayLike, ref: npt.ArrayLike, labels: npt.ArrayLike, *, beta: float
) -> float:
    """-log prod_k e^(s_k) / sum_(j >= k) e^(s_j), best label first (Plackett-Luce)."""
    s = scores(policy, ref, beta=beta)[best_first(labels)]
    return -math.fsum(_log_softmax(s[k:])[0] for k in range(s.size))


def list_net(
    policy: npt.ArrayLike, ref: npt.ArrayLike, labels: npt.ArrayLike, *, beta: float
) -> float:
    """-sum_i softmax(psi)_i log softmax(s)_i."""
    target = np.exp(_log_softmax(_f64(labels)))
    return -math.fsum(target * _log_softmax(scores(policy, ref, beta=beta)))


def lambda_weights(
    s: npt.ArrayLike, labels: npt.ArrayLike, *, normalized: bool, log_base: float = 2.0
) -> Array:
    """[C, C]: |1 / D_i - 1 / D_j| |G_i - G_j| where psi_i > psi_j, else 0; D = log(1 + rank by s).

    G is the gain, divided by IDCG if normalized (IDCG has the base 2 whatever log_base is, and
    where IDCG <= 0 every weight is 0).
    """
    psi, gain = _f64(labels), gains(labels)
    if normalized:
        best = idcg(labels)
        gain = gain / best if best > 0.0 else np.zeros_like(gain)
    ranks = np.empty(psi.size)
    ranks[best_first(s)] = np.arange(1, psi.size + 1)
    inverse = math.log(log_base) / np.log1p(ranks)
    weights = np.abs(inverse[:, None] - inverse[None, :]) * np.abs(gain[:, None] - gain[None, :])
    return np.where(psi[:, None] > psi[None, :], weights, 0.0)


def lambda_rank_of_scores(
    s: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    reduction: Reduction,
    normalized: bool,
    sigma: float = 1.0,
    log_base: float = 2.0,
) -> float:
    """Over the pairs psi_i > psi_j: -w_ij log s(sigma (s_i - s_j)), w = lambda_weights."""
    s = _f64(s)
    weights = lambda_weights(s, labels, normalized=normalized, log_base=log_base)
    first, second = _pairs(labels)
    values = weights[first, second] * _minus_log_sigmoid(sigma * (s[first] - s[second]))
    return _reduced(values, reduction)


def lambda_rank(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    beta: float,
    reduction: Reduction,
    normalized: bool,
    sigma: float = 1.0,
    log_base: float = 2.0,
) -> float:
    """lambda_rank_of_scores at s = beta (policy - ref).

    mean and normalized is the code of arXiv:2410.04346, sum and not normalized arXiv:2402.01878.
    """
    return lambda_rank_of_scores(
        scores(policy, ref, beta=beta),
        labels,
        reduction=reduction,
        normalized=normalized,
        sigma=sigma,
        log_base=log_base,
    )


def all_pairs(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    beta: float,
    reduction: Reduction,
) -> float:
    """DPO over the pairs psi_i > psi_j; pairs of equal labels do not count; no pair: 0."""
    s = scores(policy, ref, beta=beta)
    first, second = _pairs(labels)
    return _reduced(_minus_log_sigmoid(s[first] - s[second]), reduction)


def best_vs_rest(
    policy: npt.ArrayLike,
    ref: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    beta: float,
    reduction: Reduction,
) -> float:
    """DPO of the best answer (the first of equals) against each answer with a smaller label."""
    s, psi = scores(policy, ref, beta=beta), _f64(labels)
    best = best_first(psi)[0]
    return _reduced(_minus_log_sigmoid(s[best] - s[psi < psi[best]]), reduction)


def win_probabilities(beats: npt.ArrayLike, *, with_self: bool) -> Array:
    """[C]: mean over j of beats[i, j] = P(answer i beats answer j).

    with_self counts the answer against itself as 1/2 (its place among C draws of the policy);
    otherwise the mean is over the C - 1 others, so that two answers have P and 1 - P.
    """
    p = _f64(beats).copy()
    np.fill_diagonal(p, 0.5 if with_self else 0.0)
    return p.sum(axis=1) / (len(p) if with_self else len(p) - 1)


def sppo_list(
    policy: npt.ArrayLike, ref: npt.ArrayLike, win: npt.ArrayLike, *, beta: float
) -> float:
    """Mean over i of (a_i - (P_i - 1/2) / beta)^2, a = policy - ref, P = win [C] in [0, 1]."""
    a = _f64(policy) - _f64(ref)
    return float(np.mean(np.square(a - (_f64(win) - 0.5) / beta)))


def nca_list(
    policy: npt.ArrayLike, ref: npt.ArrayLike, rewards: npt.ArrayLike, *, beta: float, alpha: float
) -> float:
    """-sum_i [q_i log s(s_i) + log s(-s_i) / C], q = softmax(rewards / alpha).

    alpha -> 0 on two answers is NCA-pair of METHODS §13.14.
    """
    s = scores(policy, ref, beta=beta)
    q = np.exp(_log_softmax(_f64(rewards) / alpha))
    return math.fsum(q * _minus_log_sigmoid(s) + _minus_log_sigmoid(-s) / s.size)


def best_first(values: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Positions by descending value; equal values keep their order."""
    return np.argsort(-_f64(values), kind="stable")


def _pairs(labels: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    psi = _f64(labels)
    first, second = np.nonzero(psi[:, None] > psi[None, :])
    return first, second


def _reduced(values: Array, reduction: Reduction) -> float:
    if values.size == 0:
        return 0.0
    return math.fsum(values) / (values.size if reduction == "mean" else 1)


def _log_softmax(x: Array) -> Array:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
