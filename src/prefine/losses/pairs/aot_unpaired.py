"""Alignment via optimal transport, unpaired."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="batch", needs={"reference"}, kind="coupled", per_pair=False)
def aot_unpaired(logps: PairLogps, *, beta: PositiveFloat = 0.01) -> PerPair:
    """-log sigmoid(beta * (sorted(a) - sorted(c))), a and c the log-ratios, sorted over the step.

    The distribution of the chosen log-ratios must lie above that of the rejected ones.
    Value i belongs to the i-th smallest, not to pair i, so pairs cannot be weighted.

    Args:
        logps: All pairs of the step [B], nats; the reference values are required.
        beta: Scale of the difference [1/nat]. Default: field.
    Returns: Loss per rank [B], nats.
    Source: arXiv:2406.05882.
    """
    chosen, rejected = logps.chosen_logratio.sort().values, logps.rejected_logratio.sort().values
    return -logsigmoid(beta * (chosen - rejected))
