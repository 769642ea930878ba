"""Hinge loss on the margin."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="hinge", needs=frozenset({"reference"}))
def hinge(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.05) -> Float[Tensor, " B"]:
    """max(0, 1 - beta * D), D = margin.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: The margin 1 / beta is enough [1/nat]; gamma of the paper. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.06657 (hinge-norm).
    """
    return (1 - beta * logps.margin).relu()
