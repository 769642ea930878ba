"""Kahneman-Tversky optimization on pairs."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare, require


@declare(family="anchored", needs={"reference", "mismatched"}, kind="coupled")
def kto_pair(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    desirable_weight: PositiveFloat = 1.0,
    undesirable_weight: PositiveFloat = 1.0,
) -> PerPair:
    """(wd * (1 - sigmoid(beta * (a - z0))) + wu * (1 - sigmoid(beta * (z0 - c)))) / 2.

    a and c are the log-ratios. z0 = max(0, mean log-ratio of answers to other prompts) estimates
    the divergence from the reference, over all pairs of the step, unweighted; no gradient flows
    through it.

    Args:
        logps: All pairs of the step [B], nats; the reference values and `mismatched_logratio` are
            required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        desirable_weight: Weight wd of chosen answers. Default: paper.
        undesirable_weight: Weight wu of rejected answers. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2402.01306.
    """
    z0 = require(logps.mismatched_logratio, "mismatched").detach().mean().clamp(min=0)
    desirable = (-beta * (logps.chosen_logratio - z0)).sigmoid()
    undesirable = (-beta * (z0 - logps.rejected_logratio)).sigmoid()
    return (desirable_weight * desirable + undesirable_weight * undesirable) / 2
