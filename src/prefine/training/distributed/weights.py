"""What is trained: all of a model's parameters, or those of its adapter; whole, or this process's share of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from prefine.config.sections import TrainConfig
from prefine.training.distributed.processes import add_up, is_main, is_share
from prefine.training.distributed.sharded import own_part, share_of, whole_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainableWeights:
    """The trained parameters, and the optimizer that updates this process's part of each.

    Args:
        parameters: The model's own, by name, tied ones once.
        parts: What this process updates of each; the same object where it has the whole.
        optimizer: Has the parts.
    """

    parameters: Mapping[str, nn.Parameter]
    parts: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: "PreTrainedModel", config: TrainConfig) -> "TrainableWeights":
        """What of the model is not frozen; the frozen weights are those of the policy's folder."""
        parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        parts = {name: own_part(one) for name, one in parameters.items()}
        groups = [
            {
                "params": [p for p in parts.values() if p.dim() >= 2],
                "weight_decay": config.weight_decay,
            },
            # Norm scales and biases are not drawn towards 0.
            {"params": [p for p in parts.values() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=config.adam_betas, fused=True
        )
        return cls(parameters, parts, optimizer)

    def drop_gradients(self) -> None:
        """Before a step, or before it is tried again."""
        for parameter in (*self.parameters.values(), *self.parts.values()):
            parameter.grad = None

    def clip(self, most: float) -> float:
        """Hand the step's gradient to the optimizer, no longer than `most`; how long it was."""
        shares: list[Tensor] = []
        whole: list[Tensor] = []
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            if is_share(parameter.grad):
                self.parts[name].grad = parameter.grad.to_local()
                shares.append(parameter.grad.to_local())
            else:
                whole.append(parameter.grad)
        if not shares:
            return float(clip_grad_norm_(self.parts.values(), most))
        ours, everywhere = get_total_norm(shares), get_total_norm(whole)
        norm = (add_up(ours.double().square()) + everywhere.double().square()).sqrt().to(ours.dtype)
        clip_grads_with_norm_(self.parts.values(), most, norm)
        return float(norm)

    def weights(self) -> dict[str, Tensor]:
        """The trained parameters, whole, by name; empty in a process that keeps no files. All have to ask."""
        found: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            whole = whole_of(self.parameters[name], part.detach())
            if is_main():
                found[name] = _to_store(whole, self.parameters[name])
        return found

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors, whole, keyed `parameter number.name`; as `weights`."""
        state = self.optimizer.state_dict()["state"]
        names = self._numbered()
        found: dict[str, Tensor] = {}
        for index, entry in state.items():
            for key, value in entry.items():
                parameter = self.parameters[names[index]]
                whole = whole_of(parameter, value) if value.dim() else value
                if is_main():
                    found[f"{index}.{key}"] = _to_store(whole, parameter)
        return found

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], optimizer_state: Mapping[str, Tensor]) -> None:
        """Put back what `weights` and `optimizer_state` gave, in place."""
        for name, part in self.parts.items():
            part.copy_(share_of(self.parameters[name], weights[name]))
        names = self._numbered()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in optimizer_state.items():
            index, _, name = key.partition(".")
            parameter = self.parameters[names[int(index)]]
            state.setdefault(int(index), {})[name] = (
                share_of(parameter, value) if value.dim() else value
            )
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )

    def _numbered(self) -> list[str]:
        """The names in the optimizer's order."""
        names = {id(part): name for name, part in self.parts.items()}
        return [
            names[id(part)] for group in self.optimizer.param_groups for part in group["params"]
        ]


def _to_store(whole: Tensor, parameter: Tensor) -> Tensor:
    """The tensor where it may stay: a GPU that has a share of everything has no room for all of it."""
    return whole.cpu() if is_share(parameter) else whole
