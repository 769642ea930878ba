"""Between DPO and a loss without reference."""

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="logistic", needs={"reference"})
def dpo_gamma(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    gamma: NonNegativeFloat = 0.5,
) -> PerPair:
    """-log sigmoid(beta * ((lw - ll) - gamma * (rw - rl))), l the policy, r the reference.

    gamma 1 is DPO, 0 ignores the reference; in between, less has to be unlearned of pairs that the
    reference ranks wrongly.

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
