"""Controllers, which set hyper-parameters of a loss from the values of the steps so far."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from prefine.losses.protocol import Controller, PairLogps, PointLogps, require


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


class SlopeBalance(Controller):
    """Sets the factor of slope calibration from the slopes of a loss and the head's gradients."""

    gives = ("chosen_factor",)

    def __init__(self) -> None:
        self.log_ratio = 0.0
        self.steps = 0

    def update(self, logps: PairLogps, options: Mapping[str, Any]) -> dict[str, float]:
        """Add the log of r* / r of a step; the first step sets the average."""
        norms = require(logps.head_norms, "head_norms").double()
        with torch.enable_grad():
            chosen = logps.policy_chosen.detach().requires_grad_()
            rejected = logps.policy_rejected.detach().requires_grad_()
            values = options["loss"](logps.changed(policy_chosen=chosen, policy_rejected=rejected))
            found = torch.autograd.grad(
                (values * logps.weight).sum(),
                [chosen, rejected],
                allow_unused=True,
                materialize_grads=True,
            )
        up, down = -float(found[0].double().sum()), float(found[1].double().sum())
        if up > 0 and down > 0 and float(norms.min()) > 0:
            momentum = options["momentum"] if self.steps else 0.0
            ratio = math.log(float(norms[1] / norms[0])) - math.log(up / down)
            self.log_ratio = momentum * self.log_ratio + (1 - momentum) * ratio
            self.steps += 1
        return {"chosen_factor": math.exp(self.log_ratio / 2)}
