"""DPO that is unbiased under wrong labels."""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def robust(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1,
) -> PerPair:
    """(-(1 - e) log sigmoid(beta * D) + e log sigmoid(-beta * D)) / (1 - 2e), D = margin.

    e is label_smoothing. The mean over labels that are wrong with chance e is DPO on the right
    ones. The loss has no lower bound.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        label_smoothing: Chance that a pair is labelled wrongly; 0 is DPO. Default:
            ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2403.00409.
    """
    logits = beta * logps.margin
    clean, flipped = -logsigmoid(logits), -logsigmoid(-logits)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)
