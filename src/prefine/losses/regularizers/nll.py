"""Next-token regularization: the supervised loss on the chosen answer."""

from typing import Literal

from prefine.losses.protocol import PairLogps, PerPair, declare

NllReduction = Literal["sum", "mean", "token_mean"]


@declare(family="regularizer")
def nll(logps: PairLogps, *, reduction: NllReduction = "sum") -> PerPair:
    """-lw, lw the log-probability of chosen: every fall of its likelihood costs.

    Args:
        logps: Summed completion log-probabilities [B], nats.
        reduction: "sum" over the answer's tokens; their "mean" (then long answers do not dominate);
            or "token_mean", the sum over the mean length of the step's chosen answers, whose mean
            is that over all its tokens (both with the pairs' weights). Default: ours.
    Returns: Penalty per pair [B], nats (per token except with "sum").
    Source: arXiv:2404.19733 (mean), arXiv:2405.16436 (sum).
    """
    if reduction == "sum":
        return -logps.policy_chosen
    if reduction == "mean":
        return -logps.mean_chosen_logp
    return -logps.policy_chosen * logps.pairs_in_step / logps.chosen_tokens_in_step
