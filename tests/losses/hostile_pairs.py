"""Pairs at which a loss could overflow, cancel, divide by zero or leave its domain.

The log-probability of a completion is exactly the sum of its tokens, padding is 0, and every token
could be real: no log-probability above 0, and a log sum of squared probabilities between 2 log p
and 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reference import Array, Columns, TokenColumns

Numbers = float | Sequence[float]


def _tokens_of(sums: Array, lengths: Array, longest: int) -> Array:
    """Rows of tokens that add up to the sums: equal dyadic numbers, and the rest on the last
    token.
    """
    rows = np.zeros((sums.size, longest))
    for row, total, length in zip(rows, sums, lengths.astype(int), strict=True):
        share = np.ceil(total / length * 1024.0) / 1024.0
        row[: length - 1] = share
        row[length - 1] = total - share * (length - 1)
    return rows


def _log_sum_p2(tokens: Array) -> Array:
    """Log of sum_v p(v)^2 if the other probability is spread over three tokens."""
    p = np.exp(tokens)
    return np.minimum(0.0, np.log(p**2 + np.expm1(tokens) ** 2 / 3.0))


def _marked(lengths: Array, longest: int) -> Array:
    """Every second token, the first among them."""
    places = np.arange(longest)
    return ((places < lengths[:, None]) & (places % 2 == 0)).astype(np.float64)


def _pairs(
    lw: Numbers,
    ll: Numbers,
    rw: Numbers,
    rl: Numbers,
    *,
    chosen_tokens: Numbers = 4,
    rejected_tokens: Numbers = 6,
    initial_chosen: Numbers | None = None,
    p_chosen: Numbers = 0.75,
    weight: Numbers = 1.0,
    score_gap: Numbers = 0.5,
    mismatched_logratio: Numbers = 0.25,
) -> Columns:
    initial = rw if initial_chosen is None else initial_chosen
    given: tuple[npt.ArrayLike, ...] = (lw, ll, rw, rl, chosen_tokens, rejected_tokens, initial)
    given += (p_chosen, weight, score_gap, mismatched_logratio)
    columns = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(column, dtype=np.float64)) for column in given)
    )
    lw_, ll_, rw_, rl_, lengths_w, lengths_l, initial_, p, weights, gap, mismatched = (
        c.copy() for c in columns
    )
    longest = int(max(lengths_w.max(), lengths_l.max()))
    policy_w, ref_w = _tokens_of(lw_, lengths_w, longest), _tokens_of(rw_, lengths_w, longest)
    policy_l, ref_l = _tokens_of(ll_, lengths_l, longest), _tokens_of(rl_, lengths_l, longest)
    return Columns(
        policy_chosen=lw_,
        policy_rejected=ll_,
        ref_chosen=rw_,
        ref_rejected=rl_,
        initial_chosen=initial_,
        chosen_tokens=lengths_w,
        rejected_tokens=lengths_l,
        p_chosen=p,
        weight=weights,
        score_gap=gap,
        mismatched_logratio=mismatched,
        pairs_in_step=lw_.size,
        chosen_tokens_in_step=int(lengths_w.sum()),
        tokens=TokenColumns(
            policy_chosen=policy_w,
            policy_rejected=policy_l,
            ref_chosen=ref_w,
            ref_rejected=ref_l,
            initial_chosen=_tokens_of(initial_, lengths_w, longest),
            chosen_log_sum_p2=_log_sum_p2(policy_w),
            rejected_log_sum_p2=_log_sum_p2(policy_l),
            chosen_marked=_marked(lengths_w, longest),
            rejected_marked=_marked(lengths_l, longest),
        ),
    )


_USUAL = {
    "lw": [-6.0, -9.5, -21.25],
    "ll": [-10.0, -8.0, -30.5],
    "rw": [-5.0, -11.0, -20.0],
    "rl": [-8.0, -9.0, -28.5],
}

HOSTILE: dict[str, Columns] = {
    # exp and log-sigmoid far from 0, on each side alone and on both.
    "margin_of_1e4": _pairs(
        [-5.0, -1e4 - 5, -5.0, -1e4 - 5, -5.0],
        [-1e4 - 7, -7.0, -7.0, -7.0, -1e4 - 7],
        [-5.0, -5.0, -1e4 - 5, -5.0, -5.0],
        [-7.0, -1e4 - 7, -7.0, -7.0, -7.0],
        initial_chosen=[-5.0, -5.0, -1e4, -2.0, -1e4],
    ),
    # Both log-ratios far out, the margin small: exp(a) and exp(c) leave the range although D does
    # not.
    "both_ratios_of_1e4": _pairs(
        [-5.0, -5.0, -1e4, -1e4],
        [-7.0, -6.0, -1e4, -1e4 - 1],
        [-1e4, -1e4 - 5, -5.0, -4.0],
        [-1e4, -1e4, -6.0, -8.0],
    ),
    # Sums and token averages that no exponential survives.
    "all_log_probabilities_at_minus_1e5": _pairs(*([-1e5] * 3,) * 4),
    "policy_at_minus_1e5_from_a_plain_reference": _pairs(
        [-1e5, -1e5, -6.0], [-10.0, -1e5, -1e5], -5.0, -8.0
    ),
    "reference_at_minus_1e5": _pairs([-6.0, -6.0], [-10.0, -1e5], [-1e5, -1e5], [-1e5, -8.0]),
    # D, a and c exactly 0: kinks of hinges, and 0 / 0.
    "policy_equals_reference": _pairs(
        [-5.0, -11.0, -20.0], [-8.0, -9.0, -28.5], [-5.0, -11.0, -20.0], [-8.0, -9.0, -28.5]
    ),
    # log(1 - exp(0)), infinite odds, 1 / p = 1 and a collision probability of 1.
    "policy_certain": _pairs(
        [0.0, -6.0, 0.0], [-10.0, 0.0, 0.0], [-5.0, -5.0, -5.0], [-8.0, -8.0, -8.0]
    ),
    "policy_nearly_certain": _pairs([-1e-12, -6.0, -1e-9], [-10.0, -1e-12, -1e-9], -5.0, -8.0),
    "reference_certain": _pairs([-6.0, 0.0, -1e-12], [-10.0, 0.0, -1.0], 0.0, 0.0),
    "one_token_answers": _pairs(
        [-0.5, -7.0, -1e-3],
        [-2.0, -0.25, -1e-3],
        [-1.0, -1.0, -3.0],
        [-1.0, -2.0, -0.5],
        chosen_tokens=1,
        rejected_tokens=1,
    ),
    # Averages against sums, the empty tail of one side, the long tail of the other.
    "lengths_1_against_4000": _pairs(
        [-0.5, -6000.0, -2.0],
        [-5000.0, -3.0, -8000.0],
        [-1.0, -6100.0, -1e-3],
        [-5200.0, -2.0, -7900.0],
        chosen_tokens=[1, 4000, 1],
        rejected_tokens=[4000, 1, 4000],
    ),
    # The margin is lost in a float32 difference, and barely there in float64.
    "near_tie_of_1e-12": _pairs(
        [-1e-12, -1.0, -1.0],
        [-2e-12, -1.0 - 1e-12, -1.0],
        [0.0, -1.0, -1.0 - 1e-12],
        [0.0, -1.0, -1.0],
    ),
    # log(1 - p) and targets at the ends of (0.5, 1], also where the model is sure of the opposite.
    "p_chosen_at_both_ends": _pairs(
        [-6.0, -6.0, -1e4, -1e4],
        [-10.0, -10.0, -8.0, -8.0],
        -5.0,
        -8.0,
        p_chosen=[1.0, 0.500001, 1.0, 0.500001],
    ),
    # The logarithm of nothing and of less.
    "score_gap_at_zero_and_below": _pairs(
        [-6.0] * 5, [-10.0] * 5, -5.0, -8.0, score_gap=[0.0, 1e-9, -0.0, -2.5, -1e4]
    ),
    "score_gap_of_1e4": _pairs([-6.0, -6.0], [-10.0, -10.0], -5.0, -8.0, score_gap=[1e4, 1e4]),
    "mismatched_log_ratio_far_below": _pairs(**_USUAL, mismatched_logratio=[-1e4, -50.0, -3.0]),
    "mismatched_log_ratio_far_above": _pairs(**_USUAL, mismatched_logratio=[1e4, 50.0, 3.0]),
    # A mean just below its clamp at 0, of numbers far from it.
    "mismatched_log_ratio_cancels": _pairs(**_USUAL, mismatched_logratio=[1e4, -1e4, -1e-9]),
    # A sum of weights that a careless epsilon would swamp, equal and unequal.
    "tiny_weights": _pairs(**_USUAL, weight=1e-6, initial_chosen=[-3.0, -9.0, -18.0]),
    "weights_apart_by_1e6": _pairs(
        **_USUAL, weight=[1e-6, 1.0, 1e-6], initial_chosen=[-3.0, -9.0, -18.0]
    ),
    # No spread in the batch, nothing to sort.
    "single_pair": _pairs([-6.0], [-10.0], [-5.0], [-8.0]),
    "single_pair_of_1e4": _pairs([-1e4], [-7.0], [-5.0], [-1e4]),
    # Ties for losses that sort; no spread either.
    "identical_rows": _pairs([-6.0] * 4, [-10.0] * 4, [-5.0] * 4, [-8.0] * 4),
    "ties_of_some_rows": _pairs(
        [-6.0, -7.0, -6.0, -7.0],
        [-10.0, -11.0, -9.0, -10.0],
        [-5.0, -5.0, -6.0, -6.0],
        [-8.0, -8.0, -9.0, -9.0],
    ),
    # Falls beyond every budget, also where the reference is not the initial policy.
    "chosen_has_fallen_far": _pairs(
        [-1e4, -1e5, -45.0], -10.0, [-5.0, -5.0, -5.0], -8.0, initial_chosen=[-5.0, -5.0, -40.0]
    ),
}
