"""DPO that does not reward length."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def r_dpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 0.01,
) -> PerPair:
    """-log sigmoid(beta * D + alpha * (|w| - |l|)), D = margin, |w| and |l| the token counts.

    A pair whose chosen answer is the longer one counts as partly learned already; at equal lengths
    it is DPO.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; the reference ones
            are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: Logit that each token of extra length counts for [1/token]; 0 is DPO. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2403.19159.
    """
    longer = logps.chosen_tokens - logps.rejected_tokens
    return -logsigmoid(beta * logps.margin + alpha * longer)
