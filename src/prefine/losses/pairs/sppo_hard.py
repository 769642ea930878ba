"""Self-play preference optimization with certain labels."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regression", needs={"reference"})
def sppo_hard(logps: PairLogps, *, beta: PositiveFloat = 0.001) -> PerPair:
    """(a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2, a and c the log-ratios.

    Twice `sppo` at p_chosen = 1.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: 1 / eta of the paper [1/nat]. Default: paper.
    Returns: Loss per pair [B], nats squared.
    Source: arXiv:2405.00675, with 1 and 0 as the win probabilities.
    """
    target = 0.5 / beta
    return (logps.chosen_logratio - target).square() + (logps.rejected_logratio + target).square()
