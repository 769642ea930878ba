"""Anchored preference optimization for answers worse than the policy's own."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="anchored", needs=frozenset({"reference"}))
def apo_down(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.1) -> Float[Tensor, " B"]:
    """sigmoid(beta * a) + 1 - sigmoid(beta * D), a the log-ratio of chosen, D = margin.

    Rejected is pushed down, and chosen too where its own slope wins.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B].
    Source: arXiv:2408.06266.
    """
    return (beta * logps.chosen_logratio).sigmoid() + (-beta * logps.margin).sigmoid()
