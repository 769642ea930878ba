"""Anchored preference optimization for answers better than the policy's own."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="anchored", needs=frozenset({"reference"}))
def apo_zero(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.1) -> Float[Tensor, " B"]:
    """1 - sigmoid(beta * a) + sigmoid(beta * c), a and c the log-ratios.

    Chosen is pushed up and rejected down, each by its own slope, which vanishes far from the
    reference.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B].
    Source: arXiv:2408.06266.
    """
    return (-beta * logps.chosen_logratio).sigmoid() + (beta * logps.rejected_logratio).sigmoid()
