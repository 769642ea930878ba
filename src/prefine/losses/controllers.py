"""Controllers, which set hyper-parameters of a loss from the values of the steps so far."""

from collections.abc import Mapping
from typing import Any

import torch

from prefine.losses.protocol import Controller, PairLogps, PointLogps


class RunningReward(Controller):
    """Sets `delta` of BCO to the mean reward, beta * log-ratio, of all answers so far."""

    gives = ("delta",)

    def __init__(self) -> None:
        self.count = self.mean = 0.0

    def update(self, logps: PairLogps | PointLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """Add the rewards of a step."""
        if isinstance(logps, PointLogps):
            logratios = logps.logratio
        else:
            logratios = torch.cat([logps.chosen_logratio, logps.rejected_logratio])
        rewards = options["beta"] * logratios.double()
        self.count += len(rewards)
        self.mean += float((rewards - self.mean).sum()) / self.count
        return {"delta": self.mean}


class MarginAverage(Controller):
    """Sets moving averages of the margins' mean and standard deviation for beta-DPO.

    `draw` counts the steps, so that each step filters its pairs with other random numbers.
    """

    gives = ("margin_mean", "margin_std", "draw")

    def __init__(self) -> None:
        self.margin_mean = self.margin_std = 0.0
        self.draw = 0

    def update(self, logps: PairLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """Add the margins of a step; the first step sets the averages."""
        margin = logps.margin.double()
        mean, std = float(margin.mean()), float(margin.std(correction=0))
        momentum = options["momentum"] if self.draw else 0.0
        self.margin_mean = momentum * self.margin_mean + (1 - momentum) * mean
        self.margin_std = momentum * self.margin_std + (1 - momentum) * std
        self.draw += 1
        return self.state_dict()
