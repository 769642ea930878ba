"""The input of a loss of rewards, and what such losses share."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefine.losses.protocol import LossInputs, PerCompletion, PerItem


@dataclass(frozen=True)
class AnswerRewards:
    """Rewards [B, K] of B items of up to K answers each, in a reward model's own unit.

    A pair is an item of two answers, a list one of several, best first. A shorter item ends where
    `present` is False; all other values are 0 there. `rank` is 1 for the best, and equal for
    answers that are equally good. `score` is the judge's score of each answer up to a constant of
    its item, NaN where none is stated. `weight` is the item's in the mean over a step.
    """

    reward: PerCompletion
    rank: PerCompletion
    score: PerCompletion
    present: Bool[Tensor, "B K"]
    weight: PerItem

    @property
    def better(self) -> Bool[Tensor, "B K K"]:
        """True at [b, i, j] where answer i of item b is better than its answer j."""
        both = self.present[:, :, None] & self.present[:, None, :]
        return both & (self.rank[:, :, None] < self.rank[:, None, :])

    @property
    def margin(self) -> Float[Tensor, "B K K"]:
        """The reward of answer i minus that of answer j."""
        return self.reward[:, :, None] - self.reward[:, None, :]

    def mean_over_pairs(self, values: Float[Tensor, "B K K"]) -> PerItem:
        """The mean of values over the pairs of a better and a worse answer of each item."""
        better = self.better
        return torch.where(better, values, 0).sum((1, 2)) / better.sum((1, 2))

    def off_center(self) -> PerItem:
        """The square of twice the mean reward of each item: (r_w + r_l)^2 of a pair."""
        total = torch.where(self.present, self.reward, 0).sum(1)
        return (2 * total / self.present.sum(1)).square()

    def finite(self) -> Bool[Tensor, " B"]:
        """True for each item all of whose rewards are finite."""
        return self.reward.isfinite().all(1)


ItemValues = LossInputs | AnswerRewards
"""The values of items that losses read: log-probabilities, or rewards."""
