"""Alignment via optimal transport, paired."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, declare


@declare(family="batch", needs=frozenset({"reference"}), kind="coupled", per_pair=False)
def aot(logps: PairLogps, *, beta: Annotated[float, Field(gt=0)] = 0.01) -> Float[Tensor, " B"]:
    """-log sigmoid(beta * (sorted(lw - ll) - sorted(rw - rl))), l policy, r reference, sorted over the step.

    The distribution of the policy's differences must lie above that of the reference's.
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
