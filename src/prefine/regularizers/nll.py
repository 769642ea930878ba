"""Next-token regularization: the supervised loss on the chosen answer."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from prefine.losses.base import PairLogps, declare


@declare()
def nll(logps: PairLogps, *, reduction: Literal["sum", "mean"] = "sum") -> Float[Tensor, " B"]:
    """Negative log-probability of the chosen answer: any fall of its likelihood is resisted.

    Args:
        logps: Summed completion log-probabilities [B], nats.
        reduction: "sum" over the answer's tokens, or their "mean" (then long answers do not dominate).
    Returns: Penalty per pair [B], nats (per token with "mean").
    Source: arXiv:2404.19733 (mean), arXiv:2405.16436 (sum).
    """
    return -logps.policy_chosen if reduction == "sum" else -logps.policy_chosen / logps.chosen_tokens
