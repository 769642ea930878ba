"""Simple preference optimization: length-averaged and without a reference."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.base import PairLogps, declare


@declare()
def simpo(
    logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 2.0, gamma: Annotated[float, Field(ge=0)] = 1.6
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (mean chosen logp - mean rejected logp) - gamma).

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is read.
        beta: Scale of the length-averaged log-probability [1/nat].
        gamma: Target reward margin (not its ratio to beta); the paper's Mistral-base setting is .8 beta.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2405.14734, eq. 6.
    """
    chosen = logps.policy_chosen / logps.chosen_tokens
    rejected = logps.policy_rejected / logps.rejected_tokens
    return -logsigmoid(beta * (chosen - rejected) - gamma)
