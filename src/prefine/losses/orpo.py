"""Odds ratio preference optimization."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.base import PairLogps, declare


def _log_odds(mean_logp: Tensor) -> Tensor:
    mean_logp = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    # log(1 - p): each form keeps its digits on its own side of log 1/2.
    near_one = (-torch.expm1(mean_logp)).log()
    log_complement = torch.where(mean_logp > -math.log(2), near_one, torch.log1p(-mean_logp.exp()))
    return mean_logp - log_complement


@declare(family="reference-free")
def orpo(logps: PairLogps, *, lam: Annotated[float, Field(ge=0)] = 0.1) -> Float[Tensor, " B"]:
    """-Lw - lam * log sigmoid(log odds(Lw) - log odds(Ll)), L = log-probability per token, odds = p / (1 - p).

    The next-token term is part of the loss. A token-averaged log-probability above -eps, where the odds are infinite,
    counts as -eps of its dtype.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is read.
        lam: Weight of the odds-ratio term. Default: paper.
    Returns: Loss per pair [B], nats per token.
    Source: arXiv:2403.07691.
    """
    logits = _log_odds(logps.mean_chosen_logp) - _log_odds(logps.mean_rejected_logp)
    return -logps.mean_chosen_logp - lam * logsigmoid(logits)
