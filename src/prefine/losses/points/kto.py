"""Kahneman-Tversky optimization on labelled answers."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from prefine.losses.protocol import PerItem, PointLogps, declare, require


@declare(family="labels", needs={"reference"}, may_need=("z0",), reads="labels")
def kto(
    logps: PointLogps,
    *,
    beta: PositiveFloat = 0.1,
    desirable_weight: PositiveFloat = 1.0,
    undesirable_weight: PositiveFloat = 1.0,
    z0: NonNegativeFloat | Literal["mismatched"] = 0.0,
) -> PerItem:
    """(1 - sigmoid(beta * (d - z0))) * wd; of bad answers (1 - sigmoid(beta * (z0 - d))) * wu.

    d is the log-ratio. With z0: mismatched, as in the paper and in TRL, z0 = max(0, mean log-ratio
    of answers to other prompts): it estimates the divergence from the reference over all answers of
    the step, unweighted, and no gradient flows through it. The loss is then coupled and needs
    mismatched.

    Args:
        logps: Labelled answers [B], nats; the reference values are required, and with z0:
            mismatched all answers of the step and their `mismatched_logratio`.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        desirable_weight: Weight wd of good answers. Default: paper.
        undesirable_weight: Weight wu of bad answers. Default: paper.
        z0: The log-ratio [nat] from which an answer is judged, or mismatched. Default: ours.
    Returns: Loss per answer [B].
    Source: arXiv:2402.01306, eq. 7.
    Deviation: the default z0 is a number and not the paper's estimate, which takes a second forward
        pass in every step.
    """
    base: float | Tensor
    if z0 == "mismatched":
        base = require(logps.mismatched_logratio, "mismatched").detach().mean().clamp(min=0)
    else:
        base = z0
    good = logps.desirable
    gain = (2 * good - 1) * (logps.logratio - base)
    weight = desirable_weight * good + undesirable_weight * (1 - good)
    return weight * (-beta * gain).sigmoid()
