"""Alignment via optimal transport, paired."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="batch", needs={"reference"}, kind="coupled", per_pair=False)
def aot(logps: PairLogps, *, beta: PositiveFloat = 0.01) -> PerPair:
    """-log sigmoid(beta * (sorted(lw - ll) - sorted(rw - rl))), l policy, r reference.

    Both are sorted over the step: the distribution of the policy's differences must lie above that
    of the reference's.
    Value i belongs to the i-th smallest, not to pair i, so pairs cannot be weighted.

    Args:
        logps: All pairs of the step [B], nats; the reference values are required.
        beta: Scale of the difference [1/nat]. Default: field.
    Returns: Loss per rank [B], nats.
    Source: arXiv:2406.05882.
    """
    policy = (logps.policy_chosen - logps.policy_rejected).sort().values
    reference = (logps.ref_chosen - logps.ref_rejected).sort().values
    return -logsigmoid(beta * (policy - reference))
