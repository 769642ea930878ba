"""DPO that is unbiased under wrong labels."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference"}))
def robust(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1,
) -> Float[Tensor, " B"]:
    """(-(1 - e) log sigmoid(beta * D) + e log sigmoid(-beta * D)) / (1 - 2e), D = margin, e = label_smoothing.

    Its mean over labels that are wrong with chance e is DPO on the right ones. It has no lower
    bound.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        label_smoothing: Chance that a pair is labelled the wrong way round; 0 is DPO. Default:
            ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2403.00409.
    """
    logits = beta * logps.margin
    clean, flipped = -logsigmoid(logits), -logsigmoid(-logits)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)
