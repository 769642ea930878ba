"""Kahneman-Tversky optimization on pairs."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare, provided


@declare(family="anchored", needs=frozenset({"reference", "mismatched"}), kind="coupled")
def kto_pair(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    desirable_weight: Annotated[float, Field(gt=0)] = 1.0,
    undesirable_weight: Annotated[float, Field(gt=0)] = 1.0,
) -> Float[Tensor, " B"]:
    """(wd * (1 - sigmoid(beta * (a - z0))) + wu * (1 - sigmoid(beta * (z0 - c)))) / 2, a and c the log-ratios.

    z0 = max(0, mean log-ratio of answers to other prompts), an estimate of the divergence from the
    reference, over all pairs of the step, unweighted; no gradient flows through it.

    Args:
        logps: All pairs of the step [B], nats; the reference values and `mismatched_logratio` are
            required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        desirable_weight: Weight wd of chosen answers. Default: paper.
        undesirable_weight: Weight wu of rejected answers. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2402.01306.
    """
    z0 = provided(logps.mismatched_logratio, "mismatched").detach().mean().clamp(min=0)
    desirable = (-beta * (logps.chosen_logratio - z0)).sigmoid()
    undesirable = (-beta * (z0 - logps.rejected_logratio)).sigmoid()
    return (desirable_weight * desirable + undesirable_weight * undesirable) / 2
