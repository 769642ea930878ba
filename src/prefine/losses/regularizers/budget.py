"""The likelihood budget: chosen answers may become a little less likely for free."""

from pydantic import PositiveInt

from prefine.losses.protocol import LossInputs, PerItem, declare
from prefine.losses.regularizers.fall import Per, chosen_fall


@declare(family="regularizer", needs={"initial"}, reads="any")
def budget(
    logps: LossInputs,
    *,
    delta: float = 5.0,
    per: Per = "sequence",
    up_to_rank: PositiveInt = 1,
) -> PerItem:
    """max(0, fall - delta), fall = initial minus policy log-probability of chosen.

    Inside the budget it is zero and pushes nothing; outside, its gradient is that of next-token
    regularization. The initial value is the policy's own at step 0, also when the loss uses another
    or a moving reference. Of a list the best answer is chosen, of labelled answers the good ones.

    Args:
        logps: Summed completion log-probabilities, nats; `initial_chosen` is required.
        delta: How far the chosen log-probability may fall [nats per answer, or per token]. Default:
            ours.
        per: "sequence" budgets the summed log-probability, "token" its mean over the answer's
            tokens. Default: ours.
        up_to_rank: Of a list, the mean over its answers from rank 1 to this one. Default: ours.
    Returns: Penalty per item [B], nats (per token with "token").
    Source: our reading of arXiv:2411.05875.
    """
    return logps.of_chosen((chosen_fall(logps, per) - delta).relu(), up_to_rank)
