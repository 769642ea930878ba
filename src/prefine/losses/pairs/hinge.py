"""Hinge loss on the margin."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="hinge", needs={"reference"})
def hinge(logps: PairLogps, *, beta: PositiveFloat = 0.05) -> PerPair:
    """max(0, 1 - beta * D), D = margin.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: The margin 1 / beta is enough [1/nat]; gamma of the paper. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2309.06657 (hinge-norm).
    """
    return (1 - beta * logps.margin).relu()
