"""Controllers: what moves a loss's hyper-parameters by what the steps see. Their state is in the checkpoint."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from prefine.losses.protocol import PairLogps


class RunningReward:
    """`delta` of BCO: the mean of the rewards beta * log-ratio of all answers so far, this step's included."""

    gives: ClassVar[tuple[str, ...]] = ("delta",)

    def __init__(self) -> None:
        self._count = 0.0
        self._mean = 0.0

    def update(self, logps: PairLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """Take in the rewards of a step."""
        rewards = (
            options["beta"] * torch.cat([logps.chosen_logratio, logps.rejected_logratio]).double()
        )
        self._count += len(rewards)
        self._mean += float((rewards - self._mean).sum()) / self._count
        return {"delta": self._mean}

    def state_dict(self) -> dict[str, float]:
        """Count and mean."""
        return {"count": self._count, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self._count, self._mean = state["count"], state["mean"]


class MarginAverage:
    """What beta-DPO compares a step's margins with: moving averages of their mean and standard deviation.

    `draw` counts the steps, so that each filters with random numbers of its own.
    """

    gives: ClassVar[tuple[str, ...]] = ("margin_mean", "margin_std", "draw")

    def __init__(self) -> None:
        self._mean = self._std = 0.0
        self._draw = 0

    def update(self, logps: PairLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """Take in the margins of a step; the first one sets the averages."""
        margin = logps.margin.double()
        mean, std = float(margin.mean()), float(margin.std(correction=0))
        kept = options["momentum"] if self._draw else 0.0
        self._mean = kept * self._mean + (1 - kept) * mean
        self._std = kept * self._std + (1 - kept) * std
        self._draw += 1
        return {"margin_mean": self._mean, "margin_std": self._std, "draw": self._draw}

    def state_dict(self) -> dict[str, float]:
        """Both averages and the number of steps."""
        return {"margin_mean": self._mean, "margin_std": self._std, "draw": self._draw}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self._mean, self._std, self._draw = (
            state["margin_mean"],
            state["margin_std"],
            int(state["draw"]),
        )
