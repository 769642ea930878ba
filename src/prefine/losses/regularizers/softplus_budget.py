"""The likelihood budget without a kink; with a negative budget it pulls chosen answers up."""

from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import LossInputs, PerItem, declare
from prefine.losses.regularizers.fall import Per, chosen_fall


@declare(family="regularizer", needs={"initial"}, reads="any")
def softplus_budget(
    logps: LossInputs,
    *,
    delta: float = 5.0,
    sharpness: PositiveFloat = 1.0,
    per: Per = "sequence",
) -> PerItem:
    """log(1 + exp(sharpness * (fall - delta))) / sharpness, a smooth max(0, fall - delta).

    Args:
        logps: Summed completion log-probabilities, nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]; below 0,
            how far it should rise. -1 with sharpness 1 is the guard of SLiC there. Default: ours.
        sharpness: Of the bend [1/nat]; a large one is the hinge. Default: paper.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per item [B], nats (per token with "token").
    Source: arXiv:2410.11677 (delta -1).
    """
    beyond = chosen_fall(logps, per) - delta
    # torch's softplus drops the logarithm above 20, an error of 2e-9.
    return logps.of_chosen(-logsigmoid(-sharpness * beyond) / sharpness)
