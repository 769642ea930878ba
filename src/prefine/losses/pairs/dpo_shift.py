"""DPO-Shift: the rejected answer is pushed less than the chosen one."""

from typing import Annotated

from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="guarded", needs={"reference"})
def dpo_shift(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    f: Annotated[float, Field(gt=0, le=1)] = 0.95,
) -> PerPair:
    """-log sigmoid(beta * (a - f * c)), a and c the log-ratios.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        f: Share of the push on rejected; 1 is DPO. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2502.07599.
    """
    return -logsigmoid(beta * (logps.chosen_logratio - f * logps.rejected_logratio))
