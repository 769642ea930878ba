"""DPO with the stated probability as label."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference", "p_chosen"})
def soft_dpo(logps: PairLogps, *, beta: PositiveFloat = 0.1) -> PerPair:
    """-p log sigmoid(beta * D) - (1 - p) log sigmoid(-beta * D), D = margin, p = p_chosen.

    The optimal margin is logit(p) / beta: a narrow preference asks for a narrow margin. A pair
    without a stated probability has p = 1, which is DPO.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones and `p_chosen` are
            required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2305.18290, eq. 7, as cross-entropy with a soft label.
    """
    logits = beta * logps.margin
    return -logps.p_chosen * logsigmoid(logits) - (1 - logps.p_chosen) * logsigmoid(-logits)
