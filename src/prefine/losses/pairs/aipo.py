"""AIPO: DPO that asks for more agreement than the reference has, with next-token regularization."""

from pydantic import NonNegativeFloat, PositiveFloat

from prefine.losses.pairs.dpo_gamma import dpo_gamma
from prefine.losses.protocol import PairLogps, PerPair, declare
from prefine.losses.regularizers.nll import nll


@declare(family="guarded", needs={"reference"})
def aipo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 0.1,
    lam: NonNegativeFloat = 1.0,
) -> PerPair:
    """-log sigmoid(beta * ((lw - ll) - (1 + alpha) * (rw - rl))) - lam * lw / |w|.

    l is the policy, r the reference. It is `dpo_gamma` with gamma = 1 + alpha and the mean NLL of a
    chosen token.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: Share of the reference's own preference that is asked for on top; 0 is DPO. Default:
            ours.
        lam: Weight of the NLL per token. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2409.08845.
    """
    return dpo_gamma(logps, beta=beta, gamma=1 + alpha) + lam * nll(logps, reduction="mean")
