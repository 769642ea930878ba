"""Independent float64 numpy formulas of losses, regularizers and ranking figures.

Log-probabilities are summed over a completion, in nats, [B]; lw, ll are the policy's of the chosen
and the rejected completion, rw, rl the reference's; a = lw - rw, c = ll - rl, D = a - c, s =
sigmoid, |w| and |l| count tokens. A function returns one value per pair. A `*_grad` function is the
hand-derived gradient of the *sum* of its function's values, so row i depends on pair i alone.
Written from METHODS.md only, never from the library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Average = Literal["token", "sum"]
Per = Literal["sequence", "token"]
Reduction = Literal["sum", "mean", "token_mean"]

LARGEST_EXPONENT = 80.0
# A token-averaged log-probability above this one counts as this one: the log-odds of a certain
# completion stay finite.
CERTAIN = -(2.0**-126)


@dataclass(frozen=True, kw_only=True)
class TokenColumns:
    """Per token, [B, T], right-padded with 0; marked is 1 where the token differs from the
    other completion's.
    """

    policy_chosen: Array
    policy_rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    initial_chosen: Array
    chosen_log_sum_p2: Array
    rejected_log_sum_p2: Array
    chosen_marked: Array
    rejected_marked: Array


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The pairs of one step, [B]."""

    policy_chosen: Array
    policy_rejected: Array
    ref_chosen: Array
    ref_rejected: Array
    initial_chosen: Array
    chosen_tokens: Array
    rejected_tokens: Array
    p_chosen: Array
    weight: Array
    score_gap: Array | None = None
    mismatched_logratio: Array | None = None
    pairs_in_step: int
    chosen_tokens_in_step: int
    tokens: TokenColumns | None = None


class Grad(NamedTuple):
    """Gradient with respect to the policy's log-probabilities, each [B]."""

    policy_chosen: Array
    policy_rejected: Array


class Sums(NamedTuple):
    """Weighted sums of token log-probabilities, each [B]."""

    policy_chosen: Array
    policy_rejected: Array
    ref_chosen: Array
    ref_rejected: Array


class Toy(NamedTuple):
    """Where the toy run ended: mean drop of the chosen log-probability over the last steps, and
    the last margin.
    """

    drop: float
    margin: float


# Losses of the margin D alone.


def dpo(columns: Columns, *, beta: float, label_smoothing: float) -> Array:
    """-(1 - e) log s(beta D) - e log s(-beta D); e = 0 is arXiv:2305.18290, eq. 7."""
    return _smoothed(beta * _margin(columns), 1.0 - label_smoothing, label_smoothing)


def dpo_grad(columns: Columns, *, beta: float, label_smoothing: float) -> Grad:
    """beta (-(1 - e) s(-beta D) + e s(beta D)) for the chosen side, its opposite for the
    rejected one.
    """
    x = beta * _margin(columns)
    slope = beta * (label_smoothing * _sigmoid(x) - (1.0 - label_smoothing) * _sigmoid(-x))
    return Grad(slope, -slope)


def soft_dpo(columns: Columns, *, beta: float) -> Array:
    """-p log s(beta D) - (1 - p) log s(-beta D), p = p_chosen."""
    p = _f64(columns.p_chosen)
    return _smoothed(beta * _margin(columns), p, 1.0 - p)


def odpo(columns: Columns, *, beta: float, alpha: float, scale: Literal["linear", "log"]) -> Array:
    """-log s(beta D - alpha f(gap)); f(g) = g ("linear") or log max(g, 1e-6) ("log")."""
    gap = _f64(columns.score_gap)
    offset = gap if scale == "linear" else np.log(np.maximum(gap, 1e-6))
    return _minus_log_sigmoid(beta * _margin(columns) - alpha * offset)


def robust(columns: Columns, *, beta: float, label_smoothing: float) -> Array:
    """[-(1 - e) log s(x) + e log s(-x)] / (1 - 2 e), x = beta D.

    As log s(-x) = log s(x) - x, this is -log s(x) - e x / (1 - 2 e).
    """
    x = beta * _margin(columns)
    return _minus_log_sigmoid(x) - x * (label_smoothing / (1.0 - 2.0 * label_smoothing))


def hinge(columns: Columns, *, beta: float) -> Array:
    """max(0, 1 - beta D). Source: arXiv:2309.06657, hinge-norm."""
    return np.maximum(0.0, 1.0 - beta * _margin(columns))


def exo(columns: Columns, *, beta: float, epsilon: float) -> Array:
    """KL([s(x), s(-x)] || [1 - e, e]), x = beta D.

    Written sum_i q_i phi(log(p_i / q_i)) with phi(u) = u e^u - e^u + 1 >= 0, so that nothing
    cancels near the zero.
    """
    x = beta * _margin(columns)
    chosen = -_minus_log_sigmoid(x) - math.log1p(-epsilon)
    rejected = -_minus_log_sigmoid(-x) - math.log(epsilon)
    return (1.0 - epsilon) * _entropy_excess(chosen) + epsilon * _entropy_excess(rejected)


def discopop(columns: Columns, *, beta: float, tau: float) -> Array:
    """(1 - m) (-log s(x)) + m exp(-x), m = s(x / tau), x = beta D; the second term is exp(log
    s(x / tau) - x).
    """
    x = beta * _margin(columns)
    # log s(y) = min(y, 0) - log1p(exp(-|y|)): on the wrong side x / tau - x is one product, not a
    # difference.
    exponent = np.where(x < 0.0, x * ((1.0 - tau) / tau), -x) - np.log1p(np.exp(-np.abs(x / tau)))
    return _sigmoid(-x / tau) * _minus_log_sigmoid(x) + _exp(exponent)


def aot(columns: Columns, *, beta: float) -> Array:
    """-log s(beta d_(i)), d = sorted(lw - ll) - sorted(rw - rl), ascending; row i is position i."""
    policy = np.sort(_f64(columns.policy_chosen) - _f64(columns.policy_rejected))
    ref = np.sort(_f64(columns.ref_chosen) - _f64(columns.ref_rejected))
    return _minus_log_sigmoid(beta * (policy - ref))


def aot_unpaired(columns: Columns, *, beta: float) -> Array:
    """-log s(beta d_(i)), d = sorted(a) - sorted(c), ascending; row i is position i."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(beta * (np.sort(a) - np.sort(c)))


def beta_dpo(
    columns: Columns, *, beta: float, alpha: float, gap_mean: float, kept: npt.NDArray[np.bool_]
) -> Array:
    """-log s(b D) B / (number kept) for the kept pairs, 0 for the others.

    b = max(1e-3, beta (1 + alpha (mean of D over the kept - gap_mean))).
    """
    margin = _margin(columns)
    b = _batch_beta(margin, beta, alpha, gap_mean, kept)
    return np.where(
        kept, _minus_log_sigmoid(b * margin) * (margin.size / np.count_nonzero(kept)), 0.0
    )


def beta_dpo_grad(
    columns: Columns, *, beta: float, alpha: float, gap_mean: float, kept: npt.NDArray[np.bool_]
) -> Grad:
    """The gradient of DPO at the beta of the batch, which is held constant."""
    margin = _margin(columns)
    b = _batch_beta(margin, beta, alpha, gap_mean, kept)
    push = np.where(kept, b * _sigmoid(-b * margin) * (margin.size / np.count_nonzero(kept)), 0.0)
    return Grad(-push, push)


# Losses of length-averaged or length-corrected log-probabilities.


def ipo(columns: Columns, *, beta: float, average: Average) -> Array:
    """(D - 1 / (2 beta))^2; "token": D = a / |w| - c / |l|. Source: arXiv:2310.12036, eq. 17
    ("sum").
    """
    return np.square(_ipo_residual(columns, beta, average))


def ipo_grad(columns: Columns, *, beta: float, average: Average) -> Grad:
    """2 (D - 1 / (2 beta)) times the weight of each side."""
    slope = 2.0 * _ipo_residual(columns, beta, average)
    if average == "token":
        return Grad(slope / _f64(columns.chosen_tokens), -slope / _f64(columns.rejected_tokens))
    return Grad(slope, -slope)


def simpo(columns: Columns, *, beta: float, gamma: float) -> Array:
    """-log s(beta (lw / |w| - ll / |l|) - gamma). Source: arXiv:2405.14734, eq. 6."""
    chosen, rejected = _averages(columns)
    return _minus_log_sigmoid(beta * (chosen - rejected) - gamma)


def simpo_grad(columns: Columns, *, beta: float, gamma: float) -> Grad:
    """Logistic slope, divided by each side's own token count: a long rejected one is pushed
    less.
    """
    chosen, rejected = _averages(columns)
    push = beta * _sigmoid(gamma - beta * (chosen - rejected))
    return Grad(-push / _f64(columns.chosen_tokens), push / _f64(columns.rejected_tokens))


def alpha_po(columns: Columns, *, beta: float, alpha: float, gamma: float) -> Array:
    """-log s(beta (r_w - r_l) - gamma), r = (1 - exp(-alpha L)) / alpha of the averaged L;
    alpha = 0: r = L.
    """
    return _minus_log_sigmoid(beta * _alpha_gap(*_averages(columns), alpha) - gamma)


def sigmoid_norm(columns: Columns, *, beta: float) -> Array:
    """-log s(beta (a / |w| - c / |l|))."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(
        beta * (a / _f64(columns.chosen_tokens) - c / _f64(columns.rejected_tokens))
    )


def orpo(columns: Columns, *, lam: float) -> Array:
    """-Lw - lam log s(Lw - Ll - log(1 - exp Lw) + log(1 - exp Ll)), L averaged over the tokens,
    kept below CERTAIN.
    """
    chosen, rejected = (np.minimum(average, CERTAIN) for average in _averages(columns))
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -_averages(columns)[0] + lam * _minus_log_sigmoid(log_odds)


def r_dpo(columns: Columns, *, beta: float, alpha: float) -> Array:
    """-log s(beta D + alpha (|w| - |l|))."""
    lengths = _f64(columns.chosen_tokens) - _f64(columns.rejected_tokens)
    return _minus_log_sigmoid(beta * _margin(columns) + alpha * lengths)


def ld_dpo(
    columns: Columns, *, beta: float, alpha: float, apply_to: Literal["both", "policy"]
) -> Array:
    """DPO on prefix + alpha tail of each completion; the prefix is its first min(|w|, |l|)
    tokens.
    """
    tokens, shorter = (
        columns.tokens,
        np.minimum(_f64(columns.chosen_tokens), _f64(columns.rejected_tokens)),
    )
    weights = np.where(np.arange(tokens.policy_chosen.shape[1]) < shorter[:, None], 1.0, alpha)
    terms = [weights * _f64(tokens.policy_chosen), -weights * _f64(tokens.policy_rejected)]
    if apply_to == "both":
        terms += [-weights * _f64(tokens.ref_chosen), weights * _f64(tokens.ref_rejected)]
    else:
        terms += [-_f64(columns.ref_chosen)[:, None], _f64(columns.ref_rejected)[:, None]]
    margin = np.array([math.fsum(row) for row in np.hstack(terms)])
    return _minus_log_sigmoid(beta * margin)


# Losses without a reference, or with the likelihood of the chosen completion in them.


def slic(columns: Columns, *, delta: float, lam: float) -> Array:
    """max(0, delta - lw + ll) - lam lw."""
    lw, ll = _f64(columns.policy_chosen), _f64(columns.policy_rejected)
    return np.maximum(0.0, delta - (lw - ll)) - lam * lw


def cpo(columns: Columns, *, beta: float, alpha: float, nll_reduction: Reduction) -> Array:
    """-log s(beta (lw - ll)) + alpha nll."""
    preference = _minus_log_sigmoid(
        beta * (_f64(columns.policy_chosen) - _f64(columns.policy_rejected))
    )
    return preference + alpha * nll(columns, reduction=nll_reduction)


def rpo(columns: Columns, *, beta: float, alpha: float, nll_reduction: Reduction) -> Array:
    """-log s(beta D) + alpha nll. Source: arXiv:2405.16436."""
    return _minus_log_sigmoid(beta * _margin(columns)) + alpha * nll(
        columns, reduction=nll_reduction
    )


def dpo_gamma(columns: Columns, *, beta: float, gamma: float) -> Array:
    """-log s(beta [(lw - ll) + gamma (rl - rw)]). Source: arXiv:2405.19534."""
    policy = _f64(columns.policy_chosen) - _f64(columns.policy_rejected)
    return _minus_log_sigmoid(
        beta * (policy - gamma * (_f64(columns.ref_chosen) - _f64(columns.ref_rejected)))
    )


def nll(columns: Columns, *, reduction: Reduction) -> Array:
    """-lw ("sum"), -lw / |w| ("mean") or -lw (pairs in the step) / (chosen tokens in the step)
    ("token_mean").
    """
    return -_f64(columns.policy_chosen) * _nll_scale(columns, reduction)


def nll_grad(columns: Columns, *, reduction: Reduction) -> Grad:
    """The weight of the chosen log-probability, nothing for the rejected one."""
    chosen = -_nll_scale(columns, reduction)
    return Grad(chosen, np.zeros_like(chosen))


def budget(columns: Columns, *, delta: float, per: Per, up_to_rank: int = 1) -> Array:
    """max(0, drop - delta), drop = initial - lw, divided by |w| for "token"; ranks are of lists.

    Source: our reading of arXiv:2411.05875.
    """
    return np.maximum(0.0, _drop(columns, per) - delta)


def budget_grad(columns: Columns, *, delta: float, per: Per, up_to_rank: int = 1) -> Grad:
    """The gradient of the NLL outside the budget; exactly nothing inside it and on its edge."""
    lengths = _f64(columns.chosen_tokens)
    outside = -1.0 / lengths if per == "token" else -np.ones_like(lengths)
    chosen = np.where(_drop(columns, per) > delta, outside, 0.0)
    return Grad(chosen, np.zeros_like(chosen))


def step_budget(columns: Columns, *, delta: float, per: Per) -> Array:
    """max(0, weighted mean drop of the step - delta), the same in every row.

    Source: our reading of arXiv:2411.05875.
    """
    drop = _drop(columns, per)
    return np.full_like(drop, max(0.0, objective(drop, columns.weight) - delta))


def softplus_budget(columns: Columns, *, delta: float, sharpness: float, per: Per) -> Array:
    """log(1 + exp(sharpness (drop - delta))) / sharpness."""
    return _minus_log_sigmoid(-sharpness * (_drop(columns, per) - delta)) / sharpness


def token_budget(columns: Columns, *, delta: float) -> Array:
    """The mean over the chosen tokens of max(0, drop of the token - delta)."""
    tokens, lengths = columns.tokens, _f64(columns.chosen_tokens)
    drops = _f64(tokens.initial_chosen) - _f64(tokens.policy_chosen)
    return np.array(
        [
            math.fsum(max(0.0, drop - delta) for drop in row[: int(length)]) / length
            for row, length in zip(drops, lengths, strict=True)
        ]
    )


def log_barrier(columns: Columns, *, delta: float, t: float, per: Per) -> Array:
    """-log(-z) / t for z <= -1 / t², else t z - log(1 / t²) / t + 1 / t; z = drop - delta.

    Source: arXiv:1904.04205.
    """
    found = []
    for z in (_drop(columns, per) - delta).tolist():
        if z <= -1 / t**2:
            found.append(-math.log(-z) / t)
        else:
            found.append(t * z - math.log(1 / t**2) / t + 1 / t)
    return np.array(found)


# Losses with a term or a weight of its own for each side.


def flex_dpo(columns: Columns, *, beta_chosen: float, beta_rejected: float) -> Array:
    """-log s(beta_chosen a - beta_rejected c)."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(beta_chosen * a - beta_rejected * c)


def aipo(columns: Columns, *, beta: float, alpha: float, lam: float) -> Array:
    """-log s(beta [(lw - ll) - (1 + alpha) (rw - rl)]) - lam lw / |w|."""
    chosen, _ = _averages(columns)
    return dpo_gamma(columns, beta=beta, gamma=1 + alpha) - lam * chosen


def rainbow_po(columns: Columns, *, beta: float, alpha: float, gamma: float) -> Array:
    """-log s(beta (lw / |w| - ll / |l|) - alpha beta (rw / |w| - rl / |l|) - (1 - alpha) gamma)."""
    chosen, rejected = _averages(columns)
    ref_chosen = _f64(columns.ref_chosen) / _f64(columns.chosen_tokens)
    ref_rejected = _f64(columns.ref_rejected) / _f64(columns.rejected_tokens)
    return _minus_log_sigmoid(
        beta * (chosen - rejected)
        - alpha * beta * (ref_chosen - ref_rejected)
        - (1 - alpha) * gamma
    )


def dpop(columns: Columns, *, beta: float, lam: float, delta: float) -> Array:
    """-log s(beta (D - lam max(0, -a - delta)))."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(beta * ((a - c) - lam * np.maximum(0.0, -a - delta)))


def dpo_shift(columns: Columns, *, beta: float, f: float) -> Array:
    """-log s(beta (a - f c))."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(beta * (a - f * c))


def bdpo(columns: Columns, *, beta: float, lam: float) -> Array:
    """-log s(beta a - beta log(lam e^c + 1 - lam)). Source: arXiv:2506.12725."""
    a, c = _ratios(columns)
    log_lam = math.log(lam) if lam > 0.0 else -math.inf
    log_rest = math.log1p(-lam) if lam < 1.0 else -math.inf
    # Against the larger of e^c and 1, so that a large a and c do not cancel.
    above = (a - c) - np.logaddexp(log_lam, log_rest - c)
    return _minus_log_sigmoid(
        beta * np.where(c > 0.0, above, a - np.logaddexp(log_lam + c, log_rest))
    )


def apo_zero(columns: Columns, *, beta: float) -> Array:
    """(1 - s(beta a)) + s(beta c)."""
    a, c = _ratios(columns)
    return _sigmoid(-beta * a) + _sigmoid(beta * c)


def apo_down(columns: Columns, *, beta: float) -> Array:
    """s(beta a) + (1 - s(beta D))."""
    a, c = _ratios(columns)
    return _sigmoid(beta * a) + _sigmoid(-beta * (a - c))


def cal_dpo(columns: Columns, *, beta: float) -> Array:
    """-log s(D) + [(a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2] / 2."""
    a, c = _ratios(columns)
    target = 1.0 / (2.0 * beta)
    return _minus_log_sigmoid(a - c) + (np.square(a - target) + np.square(c + target)) / 2.0


def nca(columns: Columns, *, beta: float) -> Array:
    """-log s(beta a) - log s(-beta a) / 2 - log s(-beta c) / 2."""
    a, c = _ratios(columns)
    return _smoothed(beta * a, 1.0, 0.5) + _minus_log_sigmoid(-beta * c) / 2.0


def bco(columns: Columns, *, beta: float, delta: float) -> Array:
    """-log s(beta a - delta) - log s(-(beta c - delta))."""
    a, c = _ratios(columns)
    return _minus_log_sigmoid(beta * a - delta) + _minus_log_sigmoid(delta - beta * c)


def bco_grad(columns: Columns, *, beta: float, delta: float) -> Grad:
    """-beta s(delta - beta a) and beta s(beta c - delta)."""
    a, c = _ratios(columns)
    return Grad(-beta * _sigmoid(delta - beta * a), beta * _sigmoid(beta * c - delta))


def kto_pair(
    columns: Columns, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> Array:
    """[w_d (1 - s(beta (a - z))) + w_u (1 - s(beta (z - c)))] / 2, z = max(0, mean mismatched
    log-ratio).
    """
    a, c = _ratios(columns)
    z = _kto_baseline(columns)
    return (
        desirable_weight * _sigmoid(-beta * (a - z))
        + undesirable_weight * _sigmoid(-beta * (z - c))
    ) / 2.0


def kto_pair_grad(
    columns: Columns, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> Grad:
    """Half the weight times beta s(x) s(-x), x = beta (a - z) or beta (z - c); z is a constant."""
    a, c = _ratios(columns)
    z = _kto_baseline(columns)
    chosen, rejected = beta * (a - z), beta * (z - c)
    return Grad(
        -desirable_weight * beta * _sigmoid(chosen) * _sigmoid(-chosen) / 2.0,
        undesirable_weight * beta * _sigmoid(rejected) * _sigmoid(-rejected) / 2.0,
    )


def sppo(columns: Columns, *, beta: float) -> Array:
    """[(a - (P - 1/2) / beta)^2 + (c - (1/2 - P) / beta)^2] / 2, P = p_chosen."""
    a, c = _ratios(columns)
    target = (_f64(columns.p_chosen) - 0.5) / beta
    return (np.square(a - target) + np.square(c + target)) / 2.0


def sppo_hard(columns: Columns, *, beta: float) -> Array:
    """(a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2."""
    a, c = _ratios(columns)
    return np.square(a - 0.5 / beta) + np.square(c + 0.5 / beta)


def f_dpo(
    columns: Columns,
    *,
    beta: float,
    divergence: Literal["reverse_kl", "forward_kl", "js_divergence"],
) -> Array:
    """-log s(beta (f'(e^a) - f'(e^c))); f'(u) = log u, -1 / u or log(u / (1 + u)); exponents of
    at most 80.
    """
    a, c = _ratios(columns)
    if divergence == "reverse_kl":
        gap = a - c
    elif divergence == "forward_kl":
        gap = _exp(-c) - _exp(-a)
    else:
        gap = _minus_log_sigmoid(c) - _minus_log_sigmoid(a)
    return _minus_log_sigmoid(beta * gap)


def f_dpo_alpha(columns: Columns, *, beta: float, alpha: float) -> Array:
    """-log s(beta (f'(e^a) - f'(e^c))), f'(u) = (1 - u^-alpha) / alpha; alpha = 0: log u;
    exponents of at most 80.
    """
    return _minus_log_sigmoid(beta * _alpha_gap(*_ratios(columns), alpha))


def chi_po(columns: Columns, *, beta: float, r_max: float) -> Array:
    """-log s(k(a) - k(c)), k(x) = beta e^x + beta x clipped to 2 r_max on each side. Source:
    arXiv:2407.13399.
    """
    a, c = (
        np.clip(
            np.exp(np.clip(math.log(beta) + ratio, -88.0, 20.0)) + beta * ratio,
            -2.0 * r_max,
            2.0 * r_max,
        )
        for ratio in _ratios(columns)
    )
    return _minus_log_sigmoid(a - c)


# Weights.


def wpo_weight(columns: Columns) -> Array:
    """w(chosen) w(rejected), w = exp(mean over the tokens of log p - log sum_v p(v)^2)."""
    tokens = columns.tokens
    chosen = np.sum(_f64(tokens.policy_chosen) - _f64(tokens.chosen_log_sum_p2), axis=1)
    rejected = np.sum(_f64(tokens.policy_rejected) - _f64(tokens.rejected_log_sum_p2), axis=1)
    return _exp(chosen / _f64(columns.chosen_tokens) + rejected / _f64(columns.rejected_tokens))


def bmc_sums(columns: Columns, *, delta: float, ref_weights: Literal["policy", "own"]) -> Sums:
    """Sums of (1 + marked min(1 / p, delta)) log p; "own": the reference's with its own p.

    Source: arXiv:2408.07471 ("policy").
    """
    tokens = columns.tokens
    policy_chosen = _bmc_weight(tokens.policy_chosen, tokens.chosen_marked, delta)
    policy_rejected = _bmc_weight(tokens.policy_rejected, tokens.rejected_marked, delta)
    ref_chosen, ref_rejected = policy_chosen, policy_rejected
    if ref_weights == "own":
        ref_chosen = _bmc_weight(tokens.ref_chosen, tokens.chosen_marked, delta)
        ref_rejected = _bmc_weight(tokens.ref_rejected, tokens.rejected_marked, delta)
    return Sums(
        np.sum(policy_chosen * _f64(tokens.policy_chosen), axis=1),
        np.sum(policy_rejected * _f64(tokens.policy_rejected), axis=1),
        np.sum(ref_chosen * _f64(tokens.ref_chosen), axis=1),
        np.sum(ref_rejected * _f64(tokens.ref_rejected), axis=1),
    )


# What controllers keep between steps, and figures.


def running_mean(batches: Sequence[npt.ArrayLike]) -> list[float]:
    """After each batch, the mean of all values so far (every value counts once, not every
    batch).
    """
    seen: list[float] = []
    means = []
    for batch in batches:
        seen.extend(_f64(batch).ravel().tolist())
        means.append(math.fsum(seen) / len(seen))
    return means


def beta_dpo_ema(batches: Sequence[npt.ArrayLike], momentum: float) -> list[tuple[float, float]]:
    """After each batch, moving (mean, population std) of the margins; the first batch sets both."""
    states: list[tuple[float, float]] = []
    for batch in batches:
        mean, std = float(np.mean(_f64(batch))), float(np.std(_f64(batch)))
        if states:
            mean = momentum * states[-1][0] + (1.0 - momentum) * mean
            std = momentum * states[-1][1] + (1.0 - momentum) * std
        states.append((mean, std))
    return states


def beta_dpo_keep_weights(margins: npt.ArrayLike, mean: float, std: float) -> Array:
    """exp(-((D - mean) / std)^2 / 2); without any spread every pair weighs 1."""
    if std == 0.0:
        return np.ones_like(_f64(margins))
    return np.exp(-0.5 * np.square((_f64(margins) - mean) / std))


def objective(values: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Weighted mean of per-pair values."""
    return float(np.sum(_f64(weights) * _f64(values)) / np.sum(_f64(weights)))


def toy(
    delta: float, lam: float, *, beta: float = 0.5, lr: float = 0.01, steps: int = 20_000
) -> Toy:
    """DPO with a budget by gradient descent on a softmax over three outcomes.

    The logits are features @ theta.
    The first outcome is the chosen one, the second the rejected one; the reference is theta = 0.
    The drop is the mean over the last 2,000 steps: at the end the hinge chatters in a band of width
    O(lr * lam) around delta.
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
    """Probability that a scan of m completions in random order ends with the best.

    Each duel is right with chance q. The best one, met as number k, must win m - k + 1 duels, and
    m - 1 if it is the first champion.
    """
    return float((q ** (m - 1) + sum(q ** (m - k + 1) for k in range(2, m + 1))) / m)


def _f64(values: npt.ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def _exp(x: Array) -> Array:
    return np.exp(np.minimum(x, LARGEST_EXPONENT))


def _sigmoid(x: Array) -> Array:
    tail = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0.0, 1.0, tail) / (1.0 + tail)


def _minus_log_sigmoid(x: Array) -> Array:
    return np.asarray(np.logaddexp(0.0, -x), dtype=np.float64)


def _smoothed(x: Array, right: npt.ArrayLike, wrong: npt.ArrayLike) -> Array:
    """-right log s(x) - wrong log s(-x): two terms of one sign for weights that are not
    negative.
    """
    return _f64(right) * _minus_log_sigmoid(x) + _f64(wrong) * _minus_log_sigmoid(-x)


def _log1mexp(x: Array) -> Array:
    """log(1 - e^x) for x < 0."""
    near, far = np.maximum(x, -math.log(2.0)), np.minimum(x, -math.log(2.0))
    return np.where(x > -math.log(2.0), np.log(-np.expm1(near)), np.log1p(-np.exp(far)))


def _entropy_excess(u: Array) -> Array:
    """t log t - t + 1 at t = e^u: sum over k >= 2 of u^k / (k (k - 2)!) near 0, where the plain
    form cancels.
    """
    small = np.clip(u, -0.5, 0.5)
    series = np.sum([small**k / (k * math.factorial(k - 2)) for k in range(16, 1, -1)], axis=0)
    return np.where(np.abs(u) < 0.5, series, u * np.exp(u) - np.expm1(u))


def _alpha_gap(chosen: Array, rejected: Array, alpha: float) -> Array:
    """f(chosen) - f(rejected), f(x) = (1 - exp(-alpha x)) / alpha, exponents clamped.

    e^v - e^u = sign(v - u) e^max(u, v) (1 - e^-|v - u|), so that a small alpha does not cancel.
    """
    if alpha == 0.0:
        return chosen - rejected
    u, v = (
        np.minimum(-alpha * chosen, LARGEST_EXPONENT),
        np.minimum(-alpha * rejected, LARGEST_EXPONENT),
    )
    larger = np.maximum(u, v)
    distance = np.where(larger < LARGEST_EXPONENT, alpha * (chosen - rejected), v - u)
    return np.sign(distance) * np.exp(larger) * -np.expm1(-np.abs(distance)) / alpha


def _ratios(columns: Columns) -> tuple[Array, Array]:
    chosen = _f64(columns.policy_chosen) - _f64(columns.ref_chosen)
    return chosen, _f64(columns.policy_rejected) - _f64(columns.ref_rejected)


def _margin(columns: Columns) -> Array:
    a, c = _ratios(columns)
    return a - c


def _averages(columns: Columns) -> tuple[Array, Array]:
    chosen = _f64(columns.policy_chosen) / _f64(columns.chosen_tokens)
    return chosen, _f64(columns.policy_rejected) / _f64(columns.rejected_tokens)


def _ipo_residual(columns: Columns, beta: float, average: Average) -> Array:
    a, c = _ratios(columns)
    if average == "token":
        a, c = a / _f64(columns.chosen_tokens), c / _f64(columns.rejected_tokens)
    return a - c - 1.0 / (2.0 * beta)


def _nll_scale(columns: Columns, reduction: Reduction) -> Array:
    lengths = _f64(columns.chosen_tokens)
    if reduction == "mean":
        return 1.0 / lengths
    if reduction == "token_mean":
        return np.full_like(lengths, columns.pairs_in_step / columns.chosen_tokens_in_step)
    return np.ones_like(lengths)


def _drop(columns: Columns, per: Per) -> Array:
    drop = _f64(columns.initial_chosen) - _f64(columns.policy_chosen)
    return drop / _f64(columns.chosen_tokens) if per == "token" else drop


def _kto_baseline(columns: Columns) -> float:
    return max(0.0, float(np.mean(_f64(columns.mismatched_logratio))))


def _batch_beta(
    margin: Array, beta: float, alpha: float, gap_mean: float, kept: npt.NDArray[np.bool_]
) -> float:
    return max(1e-3, beta * (1.0 + alpha * (float(np.mean(margin[kept])) - gap_mean)))


def _bmc_weight(logps: Array, marked: Array, delta: float) -> Array:
    # 1 / p overflows only far above any delta: 700 keeps the exponential finite.
    return 1.0 + _f64(marked) * np.minimum(np.exp(np.minimum(-_f64(logps), 700.0)), delta)
