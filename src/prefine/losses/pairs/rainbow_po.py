"""RainbowPO: length-averaged, between SimPO and DPO with averages."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def rainbow_po(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 2.0,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
    gamma: NonNegativeFloat = 1.6,
) -> PerPair:
    """-log sigmoid(beta * (policy - alpha * reference) - (1 - alpha) * gamma).

    Policy and reference are lw / |w| - ll / |l| with their log-probabilities l.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts.
        beta: Scale of the length-averaged log-probability [tokens/nat]. Default: ours.
        alpha: Share of the reference; 0 is SimPO, 1 is `sigmoid_norm`. Default: ours.
        gamma: Target reward margin of the part without a reference. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2410.04203.
    """
    policy = logps.mean_chosen_logp - logps.mean_rejected_logp
    reference = logps.ref_chosen / logps.chosen_tokens - logps.ref_rejected / logps.rejected_tokens
    return -logsigmoid(beta * (policy - alpha * reference) - (1 - alpha) * gamma)
