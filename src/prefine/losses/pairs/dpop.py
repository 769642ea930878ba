"""DPO-Positive: a fall of the chosen answer makes the pair count as less learned."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="guarded", needs={"reference"})
def dpop(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.3,
    lam: NonNegativeFloat = 50.0,
    delta: NonNegativeFloat = 0.0,
) -> PerPair:
    """-log sigmoid(beta * (D - lam * max(0, -a - delta))), D = margin, a the log-ratio of chosen.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: paper.
        lam: Weight of the fall; 0 is DPO. Default: paper.
        delta: How far chosen may fall for free [nats]; 0 is the paper's loss. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2402.13228; the budget delta is ours.
    """
    beyond = (-logps.chosen_logratio - delta).relu()
    return -logsigmoid(beta * (logps.margin - lam * beyond))
