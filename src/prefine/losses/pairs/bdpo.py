"""Bounded DPO: the rejected answer is compared with a mixture that cannot vanish."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.protocol import PairLogps, PerPair, declare


@declare(family="guarded", needs={"reference"})
def bdpo(
    logps: PairLogps,
    *,
    beta: PositiveFloat = 0.1,
    lam: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> PerPair:
    """-log sigmoid(beta * a - beta * log(lam * exp(c) + 1 - lam)), a and c the log-ratios.

    The push on rejected ends as it becomes unlikely. Where the loss is at most log 2, exp(a) >= lam
    exp(c) + 1 - lam.

    Args:
        logps: Summed completion log-probabilities [B], nats; the reference ones are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        lam: Share of the policy in the mixture; 1 is DPO, 0 ignores rejected. Default: field.
    Returns: Loss per pair [B], nats.
    Source: arXiv:2506.12725.
    """
    share = logps.policy_chosen.new_tensor([lam, 1 - lam]).log()
    mixed = torch.logaddexp(share[0] + logps.rejected_logratio, share[1])
    return -logsigmoid(beta * (logps.chosen_logratio - mixed))
