"""A wall before the likelihood budget: the penalty rises before the fall has reached it."""

import math
from typing import Literal

import torch
from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regularizer", needs={"initial"})
def log_barrier(
    logps: PairLogps,
    *,
    delta: float = 5.0,
    t: PositiveFloat = 1.0,
    per: Literal["sequence", "token"] = "sequence",
) -> PerPair:
    """-log(delta - fall) / t up to 1 / t² before delta, from there on its tangent, slope t.

    Args:
        logps: Summed completion log-probabilities [B], nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]. Default:
            ours.
        t: Steepness of the wall; a large one is felt only close to delta. Default: ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per pair [B]; it may be negative.
    Source: arXiv:1904.04205 (log-barrier extension).
    """
    fall = logps.initial_chosen - logps.policy_chosen
    if per == "token":
        fall = fall / logps.chosen_tokens
    beyond, edge = fall - delta, 1 / t**2
    # The logarithm is of the edge where it is not taken, so that its gradient is finite.
    inside = -(-beyond).clamp(min=edge).log() / t
    return torch.where(beyond <= -edge, inside, t * (beyond + edge) - math.log(edge) / t)
