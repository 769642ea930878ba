"""DPO with next-token regularization on the chosen answer."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare
from prefine.losses.regularizers.nll import NllReduction, nll


@declare(family="guarded", needs=frozenset({"reference"}))
def rpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
    nll_reduction: NllReduction = "mean",
) -> Float[Tensor, " B"]:
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
