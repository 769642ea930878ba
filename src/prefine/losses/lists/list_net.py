"""Cross-entropy of two softmaxes over a list."""

import torch
from pydantic import PositiveFloat

from prefine.losses.lists.relevance import Labels, relevance
from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def list_net(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.1,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """-sum of softmax(labels) * log softmax(r) over a list's answers, r = beta * log-ratio.

    The policy is to give each answer its share in the softmax of the labels; it stops where it
    does.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: field.
        scale: The labels are multiplied by it; the larger, the more the best answer is preferred.
            Default: field.
    Returns: Loss per list [B], nats.
    Source: Cao et al. 2007 (ListNet); with these rewards arXiv:2410.04346.
    """
    absent = ~logps.present
    target = relevance(logps, labels, scale).masked_fill(absent, -torch.inf).softmax(1)
    reward = (beta * logps.logratio).masked_fill(absent, -torch.inf)
    return -(target * reward.log_softmax(1).masked_fill(absent, 0)).sum(1)
