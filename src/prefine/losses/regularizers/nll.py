"""Next-token regularization: the supervised loss on the chosen answer."""

from typing import Literal

from prefine.losses.protocol import LossInputs, PerItem, declare

NllReduction = Literal["sum", "mean", "token_mean"]


@declare(family="regularizer", reads="any")
def nll(logps: LossInputs, *, reduction: NllReduction = "sum") -> PerItem:
    """-lw, lw the log-probability of chosen: every fall of its likelihood costs.

    Of a list the best answer is chosen, of labelled answers the good ones.

    Args:
        logps: Summed completion log-probabilities, nats.
        reduction: "sum" over the answer's tokens; their "mean" (then long answers do not dominate);
            or "token_mean", the sum over the mean length of the step's chosen answers, whose mean
            is that over all its tokens (both with the items' weights). Default: ours.
    Returns: Penalty per item [B], nats (per token except with "sum").
    Source: arXiv:2404.19733 (mean), arXiv:2405.16436 (sum).
    """
    if reduction == "sum":
        return logps.of_chosen(-logps.policy_chosen)
    if reduction == "mean":
        return logps.of_chosen(-logps.policy_chosen / logps.chosen_tokens)
    return logps.of_chosen(logps.over_mean_length(-logps.policy_chosen))
