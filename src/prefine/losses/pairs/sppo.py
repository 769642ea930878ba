"""Self-play preference optimization with estimated win probabilities."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="regression", needs=frozenset({"reference", "p_chosen"}))
def sppo(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.001) -> Float[Tensor, " B"]:
    """((a - (p - 1/2) / beta)^2 + (c + (p - 1/2) / beta)^2) / 2, a and c the log-ratios, p = p_chosen.

    The log-ratio of each answer is drawn to its win probability minus one half, over beta. A pair
    that states no probability has p = 1.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones and `p_chosen` are
            required.
        beta: 1 / eta of the paper [1/nat]. Default: paper.
    Returns: Loss per pair [B], nats squared.
    Deviation: the paper estimates the win probabilities against the current policy; here they are p
        and 1 - p.
    Source: arXiv:2405.00675.
    """
    target = (logps.p_chosen - 0.5) / beta
    return (
        (logps.chosen_logratio - target).square() + (logps.rejected_logratio + target).square()
    ) / 2
