"""Simple preference optimization: length-averaged and without a reference."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="reference-free")
def simpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 2.0,
    gamma: Annotated[float, Field(ge=0)] = 1.6,
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (lw / |w| - ll / |l|) - gamma), l log-probabilities, |w| and |l| token counts.

    The push on each answer is divided by its own length: a long rejected one is pushed less per
    token.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is
            read.
        beta: Scale of the length-averaged log-probability [tokens/nat]. Default: paper.
        gamma: Target reward margin (not its ratio to beta); the Mistral-base setting is .8 beta.
            Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2405.14734, eq. 6.
    """
    return -logsigmoid(beta * (logps.mean_chosen_logp - logps.mean_rejected_logp) - gamma)
