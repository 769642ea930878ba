"""Odds ratio preference optimization."""

import math

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare

# The smallest normal number of float32: rounding can make a probability 1, whose odds are infinite.
_CERTAIN = -(2.0**-126)


def _log_odds(mean_logp: Tensor) -> Tensor:
    mean_logp = mean_logp.clamp(max=_CERTAIN)
    # log(1 - p): each form is exact on its own side of log 1/2, and kept finite on the other.
    near_one = (-torch.expm1(mean_logp)).log()
    near_zero = torch.log1p(-mean_logp.clamp(max=-math.log(2)).exp())
    return mean_logp - torch.where(mean_logp > -math.log(2), near_one, near_zero)


@declare(family="reference-free")
def orpo(logps: PairLogps, *, lam: NonNegativeFloat = 0.1) -> PerPair:
    """-Lw - lam * log sigmoid(log odds(Lw) - log odds(Ll)), odds = p / (1 - p).

    L is the log-probability per token. The next-token (NLL) term is part of the loss. In the odds,
    a token-averaged log-probability of 0 counts as -2^-126.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is
            read.
        lam: Weight of the odds-ratio term. Default: paper.
    Returns: Loss per pair [B], nats per token.
    Source: arXiv:2403.07691.
    """
    logits = _log_odds(logps.mean_chosen_logp) - _log_odds(logps.mean_rejected_logp)
    return -logps.mean_chosen_logp - lam * logsigmoid(logits)
