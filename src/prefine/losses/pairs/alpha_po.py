"""AlphaPO: SimPO with a reward that bends with alpha."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="reference-free")
def alpha_po(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 2.5,
    alpha: float = 0.25,
    gamma: NonNegativeFloat = 0.1,
) -> PerPair:
    """-log sigmoid(beta * (r(Lw) - r(Ll)) - gamma), r(L) = (1 - exp(-alpha * L)) / alpha.

    L is the log-probability per token. alpha 0 is SimPO. Exponents are clamped at 80, where the
    gradient ends, too.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is
            read.
        beta: Scale of the reward. Default: paper.
        alpha: Above 0, unlikely answers are pushed harder; below 0, likely ones. Default: paper.
        gamma: Target reward margin. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2501.03884.
    """

    def reward(mean_logp: Tensor) -> Tensor:
        return mean_logp if alpha == 0 else -torch.expm1((-alpha * mean_logp).clamp(max=80)) / alpha

    return -logsigmoid(
        beta * (reward(logps.mean_chosen_logp) - reward(logps.mean_rejected_logp)) - gamma
    )
