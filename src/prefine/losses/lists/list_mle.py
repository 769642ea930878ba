"""Plackett-Luce likelihood of an order."""

import torch
from pydantic import PositiveFloat

from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def list_mle(logps: ListLogps, *, beta: PositiveFloat = 0.1) -> PerItem:
    """Sum over k of log(sum over j not better than k of exp(r_j)) - r_k, r = beta * log-ratio.

    It is -log of the probability that drawing answers without replacement, each with probability
    proportional to exp(r), gives the list's order. A list of two is dpo.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
    Returns: Loss per list [B], nats.
    Source: Xia et al. 2008 (ListMLE); with these rewards arXiv:2410.04346.
    Deviation: answers that are equally good are all among the j of each other, where the published
        code orders them as they come.
    """
    reward = beta * logps.logratio
    # [B, k, j]: an answer stands against itself even behind a list's end, so that no sum is empty.
    against = (logps.rank[:, None, :] >= logps.rank[:, :, None]) & logps.present[:, None, :]
    against |= torch.eye(reward.shape[1], dtype=torch.bool, device=reward.device)
    rest = reward[:, None, :].masked_fill(~against, -torch.inf).logsumexp(-1)
    return (rest - reward).masked_fill(~logps.present, 0).sum(1)
