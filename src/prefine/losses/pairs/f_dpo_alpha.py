"""DPO with an alpha-divergence from the reference."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="divergence", needs={"reference"})
def f_dpo_alpha(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> PerPair:
    """-log sigmoid(beta * (g(a) - g(c))), g(x) = (1 - exp(-alpha * x)) / alpha.

    a and c are the log-ratios. alpha 0 is DPO (reverse KL), 1 the forward KL. Exponents are clamped
    at 80, where the gradient ends, too. Others write 1 - alpha for this alpha.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        alpha: Order of the divergence. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.16240.
    """

    def slope(logratio: Tensor) -> Tensor:
        return logratio if alpha == 0 else -torch.expm1((-alpha * logratio).clamp(max=80)) / alpha

    return -logsigmoid(beta * (slope(logps.chosen_logratio) - slope(logps.rejected_logratio)))
