"""Direct preference optimization."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.base import PairLogps, declare


@declare(needs=frozenset({"reference"}))
def dpo(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.1) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * margin), margin = policy log-ratio minus reference log-ratio.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.18290, eq. 7.
    """
    return -logsigmoid(beta * logps.margin)
