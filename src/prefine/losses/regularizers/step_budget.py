"""The likelihood budget of a step: it limits the mean fall, single answers may fall further."""

from typing import Literal

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regularizer", kind="coupled", needs={"initial"})
def step_budget(
    logps: PairLogps,
    *,
    delta: float = 5.0,
    per: Literal["sequence", "token"] = "sequence",
) -> PerPair:
    """max(0, mean fall - delta), fall = initial minus policy log-probability of chosen.

    The mean is taken over the step with the pairs' weights; every pair has the same value.

    Args:
        logps: All pairs of the step [B], nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall on average [nats per answer, or per
            token]. Default: ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per pair [B], nats (per token with "token").
    Source: our reading of arXiv:2411.05875, over a step.
    """
    fall = logps.initial_chosen - logps.policy_chosen
    if per == "token":
        fall = fall / logps.chosen_tokens
    mean = (fall * logps.weight).sum() / logps.weight.sum()
    return (mean - delta).relu().expand_as(fall)
