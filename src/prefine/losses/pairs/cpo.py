"""Contrastive preference optimization: DPO with a uniform reference, plus an NLL term."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare
from prefine.losses.regularizers.nll import NllReduction, nll


@declare(family="reference-free")
def cpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 1.0,
    nll_reduction: NllReduction = "token_mean",
) -> PerPair:
    """-log sigmoid(beta * (lw - ll)) + alpha * nll(chosen), lw and ll log-probabilities.

    Args:
        logps: Summed completion log-probabilities [B], nats; no reference is read.
        beta: Scale of the difference [1/nat]. Default: paper.
        alpha: Weight of the next-token term. Default: paper.
        nll_reduction: How that term averages, see the regularizer `nll`. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2401.08417.
    """
    preference = -logsigmoid(beta * (logps.policy_chosen - logps.policy_rejected))
    return preference + alpha * nll(logps, reduction=nll_reduction)
