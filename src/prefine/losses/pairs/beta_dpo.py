"""Beta-DPO: beta follows the step's margins, and pairs with unusual margins are dropped."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.controllers import MarginAverage
from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="batch", kind="coupled", needs={"reference"}, controller=MarginAverage)
def beta_dpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 0.6,
    rho: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    seed: NonNegativeInt = 0,
    margin_mean: float = 0.0,
    margin_std: float = 1.0,
    draw: int = 0,
) -> PerPair:
    """-log sigmoid(b * D), b = max(.001, beta * (1 + alpha * (mean kept D - margin_mean))).

    A share rho of the pairs is dropped at random: their value is 0, and the others are kept with
    weights exp(-((D - margin_mean) / margin_std)^2 / 2). The values of the kept pairs are scaled so
    that the mean over all B is the mean over the kept. No average here is weighted.

    Args:
        logps: All pairs of the step [B], nats; the reference values are required.
        beta: Inverse temperature at the usual margin [1/nat]. Default: ours.
        alpha: How strongly beta follows the margins [1/nat]; 0 with rho 0 is DPO. Default: paper.
        rho: Share of pairs dropped. Default: paper.
        momentum: Momentum of the controller's moving averages. Default: paper.
        seed: Seed of the dropping. Default: ours.
        margin_mean: Moving average of the margins [nats]; from the controller in training. Default:
            ours.
        margin_std: Moving average of their standard deviation [nats]; the same. Default: ours.
        draw: Number of the step, so that steps drop other pairs; the same. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2407.08639.
    """
    margin = logps.margin
    kept = torch.ones_like(margin, dtype=torch.bool)
    if rho > 0:
        unusual = (margin.detach().double() - margin_mean) / max(margin_std, 1e-6)
        # The largest sums of log-weight and Gumbel noise are a draw without replacement.
        noise = torch.from_numpy(np.random.default_rng([seed, draw]).gumbel(size=len(margin)))
        order = (noise.to(margin.device) - unusual.square() / 2).argsort(descending=True)
        kept[order[max(1, int(len(margin) * (1 - rho) + 1e-9)) :]] = False
    step_beta = (beta * (1 + alpha * (margin.detach()[kept].mean() - margin_mean))).clamp(min=1e-3)
    return torch.where(kept, -logsigmoid(step_beta * margin) * len(margin) / kept.sum(), 0.0)
