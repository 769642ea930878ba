"""A wall before the likelihood budget: the penalty rises before the fall has reached it."""

import math

import torch
from pydantic import PositiveFloat

from prefine.losses.protocol import LossInputs, PerItem, declare
from prefine.losses.regularizers.fall import Per, chosen_fall


@declare(family="regularizer", needs={"initial"}, reads="any")
def log_barrier(
    logps: LossInputs,
    *,
    delta: float = 5.0,
    t: PositiveFloat = 1.0,
    per: Per = "sequence",
) -> PerItem:
    """-log(delta - fall) / t up to 1 / t² before delta, from there on its tangent, slope t.

    Args:
        logps: Summed completion log-probabilities, nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]. Default:
            ours.
        t: Steepness of the wall; a large one is felt only close to delta. Default: ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per item [B]; it may be negative.
    Source: arXiv:1904.04205 (log-barrier extension).
    """
    beyond, edge = chosen_fall(logps, per) - delta, 1 / t**2
    # The logarithm is of the edge where it is not taken, so that its gradient is finite.
    inside = -(-beyond).clamp(min=edge).log() / t
    tangent = t * (beyond + edge) - math.log(edge) / t
    return logps.of_chosen(torch.where(beyond <= -edge, inside, tangent))
