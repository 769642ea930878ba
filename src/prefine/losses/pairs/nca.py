"""Noise contrastive alignment on pairs."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="anchored", needs={"reference"})
def nca(logps: PairLogps, *, beta: PositiveFloat = 0.01) -> PerPair:
    """-log sigmoid(beta * a) - (log sigmoid(-beta * a) + log sigmoid(-beta * c)) / 2.

    a and c are the log-ratios. Its optimum holds chosen at the finite log-ratio log(2) / beta:
    chosen does not fall.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2402.05369.
    """
    chosen, rejected = beta * logps.chosen_logratio, beta * logps.rejected_logratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)
