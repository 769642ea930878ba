"""Binary classifier optimization on labelled answers."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.controllers import RunningReward
from prefine.losses.protocol import PerItem, PointLogps, declare


@declare(
    family="labels",
    needs={"reference"},
    reads="labels",
    kind="coupled",
    controller=RunningReward,
)
def bco_unpaired(logps: PointLogps, *, beta: PositiveFloat = 0.1, delta: float = 0.0) -> PerItem:
    """-log sigmoid(beta * d - delta); of bad answers -log sigmoid(delta - beta * d).

    d is the log-ratio. In training delta is the mean of all rewards beta * d so far, those of this
    step included, good and bad alike, whatever the answers' weights. On the two answers of a pair
    the sum is bco.

    Args:
        logps: Labelled answers [B], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        delta: Reward that counts as neither good nor bad; moved by the controller in training.
            Default: paper.
    Returns: Loss per answer [B], nats.
    Source: arXiv:2404.04656.
    """
    sign = 2 * logps.desirable - 1
    return -logsigmoid(sign * (beta * logps.logratio - delta))
