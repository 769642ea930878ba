"""The likelihood budget of a step: the mean fall is held, single answers may fall further."""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.protocol import PairLogps, declare


@declare(family="regularizer", kind="coupled", needs=frozenset({"initial"}))
def step_budget(
    logps: PairLogps,
    *,
    delta: Annotated[float, Field(allow_inf_nan=False)] = 5.0,
    per: Literal["sequence", "token"] = "sequence",
) -> Float[Tensor, " B"]:
    """max(0, mean fall - delta), fall = initial minus policy log-probability of chosen, mean over the step.

    The mean is weighted as the pairs are; every pair has the same value.

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
