"""Discovered preference optimization: logistic at wrong margins, exponential at right ones."""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def discopop(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.05,
    tau: Annotated[float, Field(gt=0, le=1)] = 0.05,
) -> PerPair:
    """(1 - m) * -log sigmoid(x) + m * exp(-x), x = beta * D, m = sigmoid(x / tau), D = margin.

    It is not convex around 0. The gradient flows through m, too.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]. Default: paper.
        tau: Width of the change from one part to the other, in units of x. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2406.08414.
    """
    logits = beta * logps.margin
    modulation = logits / tau
    # One exponential of both factors: apart, they are 0 times infinity far out.
    exponential = (logsigmoid(modulation) - logits).exp()
    return -logsigmoid(logits) * (-modulation).sigmoid() + exponential
