"""Direct preference optimization, and its conservative form."""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def dpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
) -> PerPair:
    """-(1 - e) log sigmoid(beta * D) - e log sigmoid(-beta * D), D = margin, e = label_smoothing.

    Without smoothing this is DPO. With it (cDPO) the optimal margin is finite, logit(1 - e) / beta.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        label_smoothing: Assumed share of pairs with the wrong label. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.18290, eq. 7.
    """
    logits = beta * logps.margin
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)
