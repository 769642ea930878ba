"""Kahneman-Tversky optimization on labelled answers."""

from pydantic import NonNegativeFloat, PositiveFloat

from prefine.losses.protocol import PerItem, PointLogps, declare


@declare(family="labels", needs={"reference"}, reads="labels")
def kto(
    logps: PointLogps,
    *,
    beta: PositiveFloat = 0.1,
    desirable_weight: PositiveFloat = 1.0,
    undesirable_weight: PositiveFloat = 1.0,
    z0: NonNegativeFloat = 0.0,
) -> PerItem:
    """(1 - sigmoid(beta * (d - z0))) * wd; of bad answers (1 - sigmoid(beta * (z0 - d))) * wu.

    d is the log-ratio.

    Args:
        logps: Labelled answers [B], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        desirable_weight: Weight wd of good answers. Default: paper.
        undesirable_weight: Weight wu of bad answers. Default: paper.
        z0: The log-ratio [nat] from which an answer is judged. Default: ours.
    Returns: Loss per answer [B].
    Source: arXiv:2402.01306, eq. 7.
    Deviation: z0 is an option, where the paper estimates it in every batch from answers to other
        prompts.
    """
    good = logps.desirable
    gain = (2 * good - 1) * (logps.logratio - z0)
    weight = desirable_weight * good + undesirable_weight * (1 - good)
    return weight * (-beta * gain).sigmoid()
