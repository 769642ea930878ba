"""Noise contrastive alignment on pairs."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="anchored", needs=frozenset({"reference"}))
def nca(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.01) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * a) - (log sigmoid(-beta * a) + log sigmoid(-beta * c)) / 2, a and c the log-ratios.

    Its optimum holds chosen at the finite log-ratio log(2) / beta: chosen does not fall.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2402.05369.
    """
    chosen, rejected = beta * logps.chosen_logratio, beta * logps.rejected_logratio
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)
