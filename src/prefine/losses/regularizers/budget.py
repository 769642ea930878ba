"""The likelihood budget: chosen answers may become a little less likely for free."""

from typing import Literal

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="regularizer", needs={"initial"})
def budget(
    logps: PairLogps,
    *,
    delta: float = 5.0,
    per: Literal["sequence", "token"] = "sequence",
) -> PerPair:
    """max(0, fall - delta), fall = initial minus policy log-probability of chosen.

    Inside the budget it is zero and pushes nothing; outside, its gradient is that of next-token
    regularization. The initial value is the policy's own at step 0, also when the loss uses another
    or a moving reference.

    Args:
        logps: Summed completion log-probabilities [B], nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]. Default:
            ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
    Returns: Penalty per pair [B], nats (per token with "token").
    Source: our reading of arXiv:2411.05875.
    """
    fall = logps.initial_chosen - logps.policy_chosen
    if per == "token":
        fall = fall / logps.chosen_tokens
    return (fall - delta).relu()
