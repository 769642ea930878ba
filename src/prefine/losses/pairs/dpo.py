"""Direct preference optimization, and its conservative form."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference"}))
def dpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0,
) -> Float[Tensor, " B"]:
    """-(1 - e) log sigmoid(beta * D) - e log sigmoid(-beta * D), D = margin, e = label_smoothing.

    Without smoothing this is DPO. With it (cDPO) the optimal margin is finite, logit(1 - e) / beta.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        label_smoothing: Assumed share of pairs whose answers are labelled the wrong way round.
            Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.18290, eq. 7.
    """
    logits = beta * logps.margin
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)
