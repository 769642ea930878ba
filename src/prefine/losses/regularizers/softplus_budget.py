"""The likelihood budget without a kink; with a negative budget it pulls chosen answers up."""

from typing import Literal

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regularizer", needs={"initial"})
def softplus_budget(
    logps: PairLogps,
    *,
    delta: float = 5.0,
    sharpness: PositiveFloat = 1.0,
    per: Literal["sequence", "token"] = "sequence",
) -> PerPair:
    """log(1 + exp(sharpness * (fall - delta))) / sharpness, a smooth max(0, fall - delta).

    Args:
        logps: Summed completion log-probabilities [B], nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]; below 0,
            how far it should rise. -1 with sharpness 1 is the guard of SLiC there. Default: ours.
        sharpness: Of the bend [1/nat]; a large one is the hinge. Default: paper.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per pair [B], nats (per token with "token").
    Source: arXiv:2410.11677 (delta -1).
    """
    fall = logps.initial_chosen - logps.policy_chosen
    if per == "token":
        fall = fall / logps.chosen_tokens
    # torch's softplus drops the logarithm above 20, an error of 2e-9.
    return -logsigmoid(-sharpness * (fall - delta)) / sharpness
