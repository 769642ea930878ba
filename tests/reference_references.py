"""Independent float64 numpy formulas of losses with several references, and over two prompts.

Log-probabilities are summed, in nats: of the policy [B], of K references [K, B]; w is the chosen
side, l the rejected one. weights is [K] or [K, B] and sums to 1 over k. A loss returns one value
per pair, [B]. Written from METHODS.md only, never from the library.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from reference import _f64, _minus_log_sigmoid

Array = npt.NDArray[np.float64]
Mode = Literal["harmonic", "geometric", "arithmetic"]


def combined(refs: npt.ArrayLike, weights: npt.ArrayLike, *, mode: Mode) -> Array:
    """-logsumexp(log a_k - l_k), sum_k a_k l_k or logsumexp(log a_k + l_k), over k, [B].

    These are the log of the weighted harmonic, geometric and arithmetic mean of probabilities.
    """
    logps = _f64(refs)
    share = _columns(weights, logps)
    if mode == "geometric":
        return (share * logps).sum(axis=0)
    with np.errstate(divide="ignore"):
        log_share = np.log(share)
    if mode == "harmonic":
        return -np.logaddexp.reduce(log_share - logps, axis=0)
    return np.logaddexp.reduce(log_share + logps, axis=0)


def adaptive_weights(
    refs_w: npt.ArrayLike, refs_l: npt.ArrayLike, *, epsilon: float = 0.0, swap: bool = False
) -> Array:
    """[K, B]: a_k = |m_k| / sum_j |m_j|, m_k = refs_w - refs_l; 1 / K each where all m are 0.

    epsilon is added to the sum and the last reference takes the rest (1e-6 in the authors' code).
    swap exchanges the weights of two references, as that code does.
    """
    m = np.abs(_f64(refs_w) - _f64(refs_l))
    total = m.sum(axis=0) + epsilon
    share = np.where(total > 0.0, m / np.where(total > 0.0, total, 1.0), 1.0 / len(m))
    if epsilon:
        share[-1] = 1.0 - share[:-1].sum(axis=0)
    if swap and len(m) != 2:
        raise ValueError(f"swap is for two references, not {len(m)}")
    return share[::-1] if swap else share


def clipped(
    refs_w: npt.ArrayLike, refs_l: npt.ArrayLike, *, base: int, eta: float
) -> tuple[Array, Array]:
    """l_k into [(1 + e_y) l_base, (1 - e_y) l_base] for each k but base, y = w, l.

    e_w = eta |m_w| / (|m_w| + |m_l|), e_l = eta - e_w, m_y = (l_k + l_base) / 2 before clipping,
    for each k by itself. eta < 0: e_w = e_l = |eta|. Both m 0: e_w = e_l = eta / 2.
    """
    w, low = _f64(refs_w), _f64(refs_l)
    size_w, size_l = np.abs(w + w[base]) / 2.0, np.abs(low + low[base]) / 2.0
    if eta < 0.0:
        eta_w = eta_l = np.full_like(w, -eta)
    else:
        total = size_w + size_l
        eta_w = eta * np.where(total > 0.0, size_w / np.where(total > 0.0, total, 1.0), 0.5)
        eta_l = eta - eta_w
    return (
        np.clip(w, (1.0 + eta_w) * w[base], (1.0 - eta_w) * w[base]),
        np.clip(low, (1.0 + eta_l) * low[base], (1.0 - eta_l) * low[base]),
    )


def mrpo(
    policy_w: npt.ArrayLike,
    policy_l: npt.ArrayLike,
    refs_w: npt.ArrayLike,
    refs_l: npt.ArrayLike,
    *,
    beta: float,
    mode: Mode = "harmonic",
    weights: npt.ArrayLike | None = None,
    base: int = -1,
    eta: float | None = None,
    swap: bool = False,
) -> Array:
    """DPO against the combined reference; weights = None: adaptive ones, from before clipping.

    eta = None clips nothing. Source: arXiv:2405.16388 (harmonic).
    """
    share = adaptive_weights(refs_w, refs_l, swap=swap) if weights is None else weights
    if eta is not None:
        refs_w, refs_l = clipped(refs_w, refs_l, base=base, eta=eta)
    ref_w, ref_l = combined(refs_w, share, mode=mode), combined(refs_l, share, mode=mode)
    return _dpo(policy_w, policy_l, ref_w, ref_l, beta)


def multi_dpo(
    policy_w: npt.ArrayLike,
    policy_l: npt.ArrayLike,
    refs_w: npt.ArrayLike,
    refs_l: npt.ArrayLike,
    *,
    beta: float,
    weights: npt.ArrayLike,
    base: int = -1,
    eta: float | None = None,
) -> Array:
    """sum_k a_k DPO(reference k), clipped first unless eta is None."""
    if eta is not None:
        refs_w, refs_l = clipped(refs_w, refs_l, base=base, eta=eta)
    values = [_dpo(policy_w, policy_l, w, low, beta) for w, low in zip(refs_w, refs_l, strict=True)]
    return (_columns(weights, _f64(refs_w)) * np.array(values)).sum(axis=0)


def jpo(
    policy_prompt_w: npt.ArrayLike,
    policy_answer_w: npt.ArrayLike,
    policy_prompt_l: npt.ArrayLike,
    policy_answer_l: npt.ArrayLike,
    ref_prompt_w: npt.ArrayLike,
    ref_answer_w: npt.ArrayLike,
    ref_prompt_l: npt.ArrayLike,
    ref_answer_l: npt.ArrayLike,
    *,
    beta: float,
) -> Array:
    """-log s(beta [log pi(I_w, R_w) / ref(I_w, R_w) - log pi(I_l, R_l) / ref(I_l, R_l)]).

    log p(I, R) = log p(I) + log p(R | I); all [B]. Source: arXiv:2404.00530.
    """
    # Prompt and answer apart, so that equal prompts cancel without rounding.
    prompt = (_f64(policy_prompt_w) - _f64(ref_prompt_w)) - (
        _f64(policy_prompt_l) - _f64(ref_prompt_l)
    )
    answer = (_f64(policy_answer_w) - _f64(ref_answer_w)) - (
        _f64(policy_answer_l) - _f64(ref_answer_l)
    )
    return _minus_log_sigmoid(beta * (prompt + answer))


def _dpo(
    policy_w: npt.ArrayLike,
    policy_l: npt.ArrayLike,
    ref_w: npt.ArrayLike,
    ref_l: npt.ArrayLike,
    beta: float,
) -> Array:
    margin = (_f64(policy_w) - _f64(ref_w)) - (_f64(policy_l) - _f64(ref_l))
    return _minus_log_sigmoid(beta * margin)


def _columns(weights: npt.ArrayLike, logps: Array) -> Array:
    share = _f64(weights)
    return np.broadcast_to(share[:, None] if share.ndim == 1 else share, logps.shape)
