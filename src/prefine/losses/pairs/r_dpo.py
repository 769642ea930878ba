"""DPO that does not pay for length."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference"}))
def r_dpo(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    alpha: Annotated[float, Field(ge=0)] = 0.01,
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * D + alpha * (|w| - |l|)), D = margin, |w| and |l| the token counts.

    A pair whose chosen answer is the longer one counts as partly learned already; at equal lengths
    it is DPO.

    Args:
        logps: Summed completion log-probabilities [B], nats, and token counts; the reference ones
            are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: What a token of extra length is worth [1/token]; 0 is DPO. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2403.19159.
    """
    longer = logps.chosen_tokens - logps.rejected_tokens
    return -logsigmoid(beta * logps.margin + alpha * longer)
