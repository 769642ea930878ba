"""Flex-DPO: each side has its own beta, so that the rejected answer is pushed less."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="guarded", needs={"reference"})
def flex_dpo(
    logps: PairLogps,
    *,
    beta_chosen: PositiveFloat = 0.1,
    beta_rejected: PositiveFloat = 0.08,
) -> PerPair:
    """-log sigmoid(beta_chosen * a - beta_rejected * c), a and c the log-ratios.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta_chosen: Inverse temperature of the chosen answer [1/nat]. Default: paper.
        beta_rejected: The same of the rejected one; equal ones are DPO. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2406.07327 (Flex-DPO).
    """
    return -logsigmoid(
        beta_chosen * logps.chosen_logratio - beta_rejected * logps.rejected_logratio
    )
