"""Sequence likelihood calibration: a hinge without reference, and next-token regularization."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="hinge")
def slic(
    logps: PairLogps,
    *,
    delta: Annotated[float, Field(ge=0)] = 1.0,
    lam: Annotated[float, Field(ge=0)] = 0.1,
) -> Float[Tensor, " B"]:
    """max(0, delta - lw + ll) - lam * lw, lw and ll the log-probabilities of chosen and rejected.

    Args:
        logps: Summed completion log-probabilities [B], nats; no reference is read.
        delta: The difference of log-probabilities that is enough [nats]. Default: field.
        lam: Weight of the next-token term on the chosen answer. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.10425.
    """
    gap = logps.policy_chosen - logps.policy_rejected
    return (delta - gap).relu() - lam * logps.policy_chosen
