"""Simple preference optimization: length-averaged and without a reference."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="reference-free")
def simpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 2.0,
    gamma: NonNegativeFloat = 1.6,
) -> PerPair:
    """-log sigmoid(beta * (lw / |w| - ll / |l|) - gamma), l the log-probabilities.

    |w| and |l| are the token counts. The push on each answer is divided by its own length: a long
    rejected one is pushed less per token.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; no reference is
            read.
        beta: Scale of the length-averaged log-probability [tokens/nat]. Default: paper.
        gamma: Target reward margin (not its ratio to beta); the Mistral-base setting is .8 beta.
            Default: paper.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2405.14734, eq. 6.
    """
    return -logsigmoid(beta * (logps.mean_chosen_logp - logps.mean_rejected_logp) - gamma)
