"""Models that follow the policy: a moving average of its weights, or its weights of some step."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Follower:
    """A copy of a model; only what is trained there is a copy, frozen weights are shared.

    Its tensors are replaced and never written to, so that those of a moment can be kept.

    Args:
        model: The followed model.
    """

    def __init__(self, model: nn.Module) -> None:
        shared = {id(p): p for p in model.parameters() if not p.requires_grad}
        self._followed = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.model = copy.deepcopy(model, dict(shared)).eval().requires_grad_(False)
        own = dict(self.model.named_parameters())
        self._own = {name: own[name] for name in self._followed}

    @torch.no_grad()
    def average(self, keep: float) -> None:
        """Move towards the followed weights: keep · own + (1 - keep) · theirs."""
        for name, own in self._own.items():
            own.data = keep * own.data + (1 - keep) * self._followed[name].data

    def tensors(self) -> dict[str, Tensor]:
        """Its weights of what is trained, by name."""
        return {name: own.data for name, own in self._own.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over weights of the same names."""
        for name, own in self._own.items():
            own.data = tensors[name].to(own.device, own.dtype, copy=True)
