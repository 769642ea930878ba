"""DPO on length-averaged log-ratios."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def sigmoid_norm(logps: PairLogps, *, beta: PositiveFloat = 5.0) -> PerPair:
    """-log sigmoid(beta * (a / |w| - c / |l|)), a and c the log-ratios.

    |w| and |l| are the token counts.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; the reference ones
            are required.
        beta: Inverse temperature [tokens/nat]. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2411.15124 (length-normalized DPO).
    """
    return -logsigmoid(beta * logps.token_margin)
