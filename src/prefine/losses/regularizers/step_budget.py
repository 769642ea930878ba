"""The likelihood budget of a step: it limits the mean fall, single answers may fall further."""

from prefine.losses.protocol import LossInputs, PerItem, declare
from prefine.losses.regularizers.fall import Per, chosen_fall

_SMALLEST = 1e-30


@declare(family="regularizer", kind="coupled", needs={"initial"}, reads="any")
def step_budget(
    logps: LossInputs,
    *,
    delta: float = 5.0,
    per: Per = "sequence",
) -> PerItem:
    """max(0, mean fall - delta), fall = initial minus policy log-probability of chosen.

    The mean is taken over the step with the items' weights; every item has the same value. Of a
    list the best answer is chosen, of labelled answers the good ones.

    Args:
        logps: All items of the step, nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall on average [nats per answer, or per
            token]. Default: ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per item [B], nats (per token with "token").
    Source: our reading of arXiv:2411.05875, over a step.
    """
    weight = logps.weight * logps.has_chosen
    # A step of bad answers alone has no fall.
    mean = (logps.of_chosen(chosen_fall(logps, per)) * weight).sum() / weight.sum().clamp(
        min=_SMALLEST
    )
    penalty = (mean - delta).relu() * logps.has_chosen.any()
    return penalty.expand_as(logps.weight)
