"""Anchored preference optimization for answers better than the policy's own."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="anchored", needs={"reference"})
def apo_zero(logps: PairLogps, *, beta: PositiveFloat = 0.1) -> PerPair:
    """1 - sigmoid(beta * a) + sigmoid(beta * c), a and c the log-ratios.

    Chosen is pushed up and rejected down, each by its own slope, which vanishes far from the
    reference.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B].
    Source: arXiv:2408.06266.
    """
    return (-beta * logps.chosen_logratio).sigmoid() + (beta * logps.rejected_logratio).sigmoid()
