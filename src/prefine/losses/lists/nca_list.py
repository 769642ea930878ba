"""Noise contrastive alignment on answers with rewards."""

import torch
from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.lists.relevance import Labels, relevance
from prefine.losses.protocol import ListLogps, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def nca_list(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.01,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
) -> PerItem:
    """-sum of w * log sigmoid(b) + log sigmoid(-b) / K over K answers, b = beta * log-ratio.

    w = softmax(labels): each answer is drawn to a likelihood of its own, and good ones do not fall.
    With labels far apart a list of two is nca.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: paper.
        scale: The labels are multiplied by it, 1 / alpha of the paper; the larger, the more the
            best answer counts. Default: ours.
    Returns: Loss per list [B], nats.
    Source: arXiv:2402.05369, eq. 13.
    """
    absent = ~logps.present
    weight = relevance(logps, labels, scale).masked_fill(absent, -torch.inf).softmax(1)
    reward, count = beta * logps.logratio, logps.present.sum(1, keepdim=True)
    values = weight * logsigmoid(reward) + logsigmoid(-reward) / count
    return -values.masked_fill(absent, 0).sum(1)
