"""DPO with an offset: the margin must grow with the judge's score gap."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare, require


@declare(family="logistic", needs={"reference", "score_gap"})
def odpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    alpha: NonNegativeFloat = 1.0,
    scale: Literal["linear", "log"] = "linear",
) -> PerPair:
    """-log sigmoid(beta * D - alpha * f(score_gap)), D = margin.

    With "log", a gap below 1 asks for less than DPO does, and a gap of nearly 0 for next to
    nothing.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones and `score_gap` are
            required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: ours.
        alpha: How much a unit of the scaled gap must show in beta * D; 0 is DPO. Default: ours.
        scale: "linear", f(g) = g, or "log", f(g) = log(max(g, 1e-6)). Default: ours.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2402.10571.
    """
    gap = require(logps.score_gap, "score_gap")
    offset = gap if scale == "linear" else gap.clamp(min=1e-6).log()
    return -logsigmoid(beta * logps.margin - alpha * offset)
