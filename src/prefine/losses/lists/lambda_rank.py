"""LiPO-lambda: pairs of a list, weighted by what their order is worth to NDCG."""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch.nn.functional import logsigmoid

from prefine.losses.lists.pairs_within import both_present
from prefine.losses.lists.relevance import Labels, gains, ideal, relevance, share_of_ideal
from prefine.losses.protocol import ListLogps, PerCompletion, PerItem, declare


@declare(family="lists", needs={"reference"}, reads="lists")
def lambda_rank(
    logps: ListLogps,
    *,
    beta: PositiveFloat = 0.1,
    labels: Labels = "scores",
    scale: PositiveFloat = 1.0,
    gain: Literal["normalized", "raw"] = "normalized",
    reduction: Literal["mean", "sum"] = "mean",
) -> PerItem:
    """-mean over pairs (i better than j) of w_ij * log sigmoid(r_i - r_j), r = beta * log-ratio.

    w_ij = |G_i - G_j| * |1 / log2(1 + place_i) - 1 / log2(1 + place_j)|: what NDCG would lose if
    the two swapped their places in the order by r. The weights have no gradient.

    Args:
        logps: Lists [B, K], nats; the reference values are required.
        beta: Inverse temperature [1/nat]; smaller trusts the reference less. Default: field.
        labels: "scores" as they are stated, or "ranks": the number of ranks below an answer's.
            Default: field.
        scale: The labels are multiplied by it. Default: field.
        gain: G = 2^label - 1, "raw" as in the paper, or "normalized": over the DCG of the best
            order. Default: field.
        reduction: "mean" over the pairs, or their "sum" as in the paper. Default: field.
    Returns: Loss per list [B], nats.
    Source: arXiv:2402.01878 (LiPO-lambda); with these defaults arXiv:2410.04346.
    """
    label, reward = relevance(logps, labels, scale), beta * logps.logratio
    worth = gains(label)
    if gain == "normalized":
        worth = share_of_ideal(worth, ideal(worth, logps)[:, None])
    discount = 1 / (1 + _places(reward.detach(), logps)).log2()
    weight = (worth[:, :, None] - worth[:, None, :]).abs()
    weight = weight * (discount[:, :, None] - discount[:, None, :]).abs()
    # [B, i, j]: i is better than j.
    better = (label[:, :, None] > label[:, None, :]) & both_present(logps)
    values = -logsigmoid(reward[:, :, None] - reward[:, None, :]) * weight * better
    total = values.sum((1, 2))
    return total if reduction == "sum" else total / better.sum((1, 2)).clamp(min=1)


def _places(reward: PerCompletion, logps: ListLogps) -> PerCompletion:
    """The place of each answer in the order by reward, from 1; the first of equal ones first."""
    first = torch.ones_like(both_present(logps)).tril(-1)
    other, own = reward[:, None, :], reward[:, :, None]
    above = (other > own) | ((other == own) & first)
    return 1 + (above & logps.present[:, None, :]).sum(2).to(reward.dtype)
