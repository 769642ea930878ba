"""Binary classifier optimization on pairs."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.controllers import RunningReward
from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="anchored", needs={"reference"}, kind="coupled", controller=RunningReward)
def bco(logps: PairLogps, *, beta: PositiveFloat = 0.1, delta: float = 0.0) -> PerPair:
    """-log sigmoid(beta * a - delta) - log sigmoid(-(beta * c - delta)), a and c the log-ratios.

    In training delta is the mean of all rewards beta * a and beta * c so far, those of this step
    included and all alike, whatever the pairs' weights.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        delta: Reward that counts as neither good nor bad; moved by the controller in training.
            Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2404.04656.
    """
    chosen, rejected = beta * logps.chosen_logratio, beta * logps.rejected_logratio
    return -logsigmoid(chosen - delta) - logsigmoid(delta - rejected)
