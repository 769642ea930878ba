"""Self-play preference optimization with estimated win probabilities."""

from pydantic import PositiveFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regression", needs={"reference", "p_chosen"})
def sppo(logps: PairLogps, *, beta: PositiveFloat = 0.001) -> PerPair:
    """((a - (p - 1/2) / beta)^2 + (c + (p - 1/2) / beta)^2) / 2, p = p_chosen.

    The log-ratios a and c are each pulled to the win probability of their answer minus one half,
    over beta. A pair without a stated probability has p = 1.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones and `p_chosen` are
            required.
        beta: 1 / eta of the paper [1/nat]. Default: paper.
    Returns: Loss per pair [B], nats squared.
    Deviation: the paper estimates the win probabilities against the current policy; here they are p
        and 1 - p.
    Source: arXiv:2405.00675.
    """
    target = (logps.p_chosen - 0.5) / beta
    return (
        (logps.chosen_logratio - target).square() + (logps.rejected_logratio + target).square()
    ) / 2
