"""Efficient exact optimization on pairs: the reverse divergence from the label."""

import math
from typing import Annotated

from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def exo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    epsilon: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3,
) -> PerPair:
    """KL([s(beta * D), s(-beta * D)] || [1 - epsilon, epsilon]), D = margin, s = sigmoid.

    Zero at the finite margin logit(1 - epsilon) / beta.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        epsilon: Probability that the label leaves to the rejected answer. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2402.00856.
    """
    logits = beta * logps.margin
    log_chosen, log_rejected = logsigmoid(logits), logsigmoid(-logits)
    chosen = log_chosen.exp() * (log_chosen - math.log1p(-epsilon))
    return chosen + log_rejected.exp() * (log_rejected - math.log(epsilon))
