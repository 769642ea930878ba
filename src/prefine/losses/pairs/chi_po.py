"""Chi-squared preference optimization."""

import math

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="divergence", needs={"reference"})
def chi_po(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.01,
    r_max: PositiveFloat = 10.0,
) -> PerPair:
    """-log sigmoid(clip(beta * (exp(a) + a)) - clip(beta * (exp(c) + c))), a and c the log-ratios.

    clip is to [-2 r_max, 2 r_max]; a clipped side is not pushed.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Strength of the regularization [1/nat]. Default: field.
        r_max: Largest reward that is believed. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2407.13399, the clip on each side as in public code.
    """

    def reward(logratio: Tensor) -> Tensor:
        # beta * exp(x) in one exponential, inside the range of float32.
        ratio = (logratio + math.log(beta)).clamp(-88, 20).exp()
        return (ratio + beta * logratio).clamp(-2 * r_max, 2 * r_max)

    return -logsigmoid(reward(logps.chosen_logratio) - reward(logps.rejected_logratio))
