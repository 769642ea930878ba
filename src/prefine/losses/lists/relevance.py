"""Labels of a list's answers, and the gains and discounts of NDCG."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.losses.protocol import ListLogps, PerCompletion, PerItem

Labels = Literal["scores", "ranks"]
"""The quality of an answer: its score, or the number of ranks below its own (0 for the worst)."""
_SMALLEST = 1e-10  # A divisor below it is this one: lists without any gain stay finite.


def relevance(logps: ListLogps, labels: Labels, scale: float) -> PerCompletion:
    """The label of each answer times scale, 0 behind a list's end."""
    below = logps.rank.amax(1, keepdim=True) - logps.rank
    found = logps.score if labels == "scores" else below
    return (scale * found).masked_fill(~logps.present, 0)


def gains(labels: PerCompletion) -> PerCompletion:
    """2^label - 1."""
    return torch.exp2(labels) - 1


def discounts(like: PerCompletion) -> Float[Tensor, " K"]:
    """1 / log2(1 + place) of the places 1, 2, … of a list."""
    place = torch.arange(1, like.shape[1] + 1, dtype=like.dtype, device=like.device)
    return 1 / torch.log2(1 + place)


def ideal(gain: PerCompletion, logps: ListLogps) -> PerItem:
    """The DCG [B] of the best order."""
    ordered = gain.masked_fill(~logps.present, -torch.inf).sort(dim=1, descending=True).values
    return (ordered.masked_fill(~logps.present, 0) * discounts(gain)).sum(1)


def share_of_ideal(dcg: PerItem, best: PerItem) -> PerItem:
    """The DCG over that of the best order; 0 for lists whose best order gains nothing."""
    return torch.where(best > 0, dcg / best.clamp(min=_SMALLEST), 0)


def ndcg(dcg: PerItem, gain: PerCompletion, logps: ListLogps) -> PerItem:
    """The DCG of an order over that of the best one."""
    return share_of_ideal(dcg, ideal(gain, logps))
