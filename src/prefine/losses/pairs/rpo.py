"""DPO with next-token regularization on the chosen answer."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare
from prefine.losses.regularizers.nll import NllReduction, nll


@declare(family="guarded", needs={"reference"})
def rpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 1.0,
    nll_reduction: NllReduction = "mean",
) -> PerPair:
    """-log sigmoid(beta * D) + alpha * nll(chosen), D = margin.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: Weight of the next-token term. Default: paper.
        nll_reduction: How that term averages, see the regularizer `nll`. Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2404.19733 (nll_reduction "mean"), arXiv:2405.16436 (beta .01, alpha .005, "sum").
    """
    return -logsigmoid(beta * logps.margin) + alpha * nll(logps, reduction=nll_reduction)
