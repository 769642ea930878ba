"""Between DPO and a loss without reference."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="logistic", needs=frozenset({"reference"}))
def dpo_gamma(
    logps: PairLogps,
    *,
    beta: Annotated[float, Field(gt=0)] = 0.1,
    gamma: Annotated[float, Field(ge=0)] = 0.5,
) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * ((lw - ll) - gamma * (rw - rl))), l the policy's and r the reference's log-probabilities.

    gamma 1 is DPO, 0 forgets the reference; in between it need not be unlearned as far where it
    ranks wrongly.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        gamma: Share of the reference's own preference that is subtracted. Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2405.19534.
    """
    policy = logps.policy_chosen - logps.policy_rejected
    reference = logps.ref_chosen - logps.ref_rejected
    return -logsigmoid(beta * (policy - gamma * reference))
