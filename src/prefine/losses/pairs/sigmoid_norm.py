"""DPO on length-averaged log-ratios."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference"}))
def sigmoid_norm(
    logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 5.0
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (a / |w| - c / |l|)), a and c the log-ratios, |w| and |l| the token counts.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; the reference ones
            are required.
        beta: Inverse temperature [tokens/nat]. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2411.15124 (length-normalized DPO).
    """
    return -logsigmoid(beta * logps.token_margin)
