"""Calibrated DPO: the implicit rewards are pulled to absolute values, not only apart."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regression", needs={"reference"})
def cal_dpo(logps: PairLogps, *, beta: PositiveFloat = 0.002) -> PerPair:
    """-log sigmoid(D) + ((a - 1 / (2 beta))^2 + (c + 1 / (2 beta))^2) / 2, D = a - c.

    a and c are the log-ratios.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: The log-ratios are pulled to plus and minus 1 / (2 beta) [1/nat]. Default: paper.
    Returns: Loss per pair [B].
    Source: arXiv:2412.14516.
    """
    anchor = 1 / (2 * beta)
    calibration = (logps.chosen_logratio - anchor).square() + (
        logps.rejected_logratio + anchor
    ).square()
    return -logsigmoid(logps.margin) + calibration / 2
