"""Anchored preference optimization for answers worse than the policy's own."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="anchored", needs={"reference"})
def apo_down(logps: PairLogps, *, beta: PositiveFloat = 0.1) -> PerPair:
    """sigmoid(beta * a) + 1 - sigmoid(beta * D), a the log-ratio of chosen, D = margin.

    Rejected is pushed down, and chosen too where its own slope wins.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B].
    Source: arXiv:2408.06266.
    """
    return (beta * logps.chosen_logratio).sigmoid() + (-beta * logps.margin).sigmoid()
