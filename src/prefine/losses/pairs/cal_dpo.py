"""Calibrated DPO: the implicit rewards are drawn to absolute values, not only apart."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="regression", needs=frozenset({"reference"}))
def cal_dpo(
    logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.002
) -> Float[Tensor, " B"]:
    """-log sigmoid(D) + ((a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2) / 2, a and c the log-ratios, D = a - c.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: The log-ratios are drawn to plus and minus 1 / (2 beta) [1/nat]. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2412.14516.
    """
    anchor = 1 / (2 * beta)
    calibration = (logps.chosen_logratio - anchor).square() + (
        logps.rejected_logratio + anchor
    ).square()
    return -logsigmoid(logps.margin) + calibration / 2
