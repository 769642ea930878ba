"""DPO with an alpha-divergence from the reference."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="divergence", needs=frozenset({"reference"}))
def f_dpo_alpha(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (g(a) - g(c))), a and c the log-ratios, g(x) = (1 - exp(-alpha * x)) / alpha.

    alpha 0 is DPO (reverse KL), 1 the forward KL. Exponents end at 80, where the gradient does,
    too. Others write 1 - alpha for this alpha.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        alpha: Which alpha-divergence. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.16240.
    """

    def slope(logratio: Tensor) -> Tensor:
        return logratio if alpha == 0 else -torch.expm1((-alpha * logratio).clamp(max=80)) / alpha

    return -logsigmoid(beta * (slope(logps.chosen_logratio) - slope(logps.rejected_logratio)))
