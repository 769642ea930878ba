"""Sequence likelihood calibration: a hinge without reference, and next-token regularization."""

from pydantic import NonNegativeFloat

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="hinge")
def slic(
    logps: PairLogps,
    *,
    delta: NonNegativeFloat = 1.0,
    lam: NonNegativeFloat = 0.1,
) -> PerPair:
    """max(0, delta - lw + ll) - lam * lw, lw and ll the log-probabilities of chosen and rejected.

    Args:
        logps: Summed completion log-probabilities [B], nats; no reference is read.
        delta: The difference of log-probabilities that is enough [nats]. Default: field.
        lam: Weight of the next-token term on the chosen answer. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.10425.
    """
    gap = logps.policy_chosen - logps.policy_rejected
    return (delta - gap).relu() - lam * logps.policy_chosen
