"""The trained weights and their optimizer; each process updates whole parameters or its shares."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from prefine.config.training import TrainConfig
from prefine.training.distributed.processes import gather, is_main, is_share

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainableWeights:
    """The trained parameters of a model or its adapter, and the optimizer of their local parts.

    The optimizer has the parts and not the parameters, because torch's fused AdamW cannot update
    shares (DTensors) together with whole tensors.

    Args:
        parameters: The model's own, by name, tied ones once.
        parts: What this process updates of each; the same object where it has the whole.
        optimizer: Updates the parts.
    """

    parameters: Mapping[str, nn.Parameter]
    parts: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, model: "PreTrainedModel", config: TrainConfig) -> "TrainableWeights":
        """The parameters that are not frozen; the frozen ones are those of the policy's folder."""
        parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        parts = {name: _local_part(one) for name, one in parameters.items()}
        groups = [
            {
                "params": [part for part in parts.values() if part.dim() >= 2],
                "weight_decay": config.weight_decay,
            },
            # Norm scales and biases do not decay.
            {"params": [part for part in parts.values() if part.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=config.adam_betas, fused=True
        )
        return cls(parameters, parts, optimizer)

    def drop_gradients(self) -> None:
        """Clear all gradients, before a step or before it is tried again."""
        for parameter in (*self.parameters.values(), *self.parts.values()):
            parameter.grad = None

    def clip(self, max_norm: float) -> float:
        """Give the optimizer the gradient, clipped to `max_norm`; return its norm before that."""
        shares: list[Tensor] = []
        whole: list[Tensor] = []
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            if is_share(parameter.grad):
                share = self.parts[name].grad = parameter.grad.to_local()
                shares.append(share)
            else:
                whole.append(parameter.grad)
        norm = get_total_norm(whole)
        if shares:
            local = get_total_norm(shares)
            squares = gather(local.double().square()[None]).sum() + norm.double().square()
            norm = squares.sqrt().to(local.dtype)
        clip_grads_with_norm_(self.parts.values(), max_norm, norm)
        return float(norm)

    def weights(self) -> dict[str, Tensor]:
        """The whole trained parameters by name, in the main process; all have to call it."""
        return _gathered(
            (name, self.parameters[name], part.detach()) for name, part in self.parts.items()
        )

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's whole tensors, keyed `parameter number.name`; as `weights`."""
        return _gathered(
            (f"{number}.{name}", parameter, value)
            for number, (parameter, part) in enumerate(self._numbered())
            for name, value in self.optimizer.state.get(part, {}).items()
        )

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], optimizer_state: Mapping[str, Tensor]) -> None:
        """Load the results of `weights` and `optimizer_state`, in place."""
        for name, part in self.parts.items():
            part.copy_(_share_of(self.parameters[name], weights[name]))
        self.restore_optimizer(optimizer_state)

    def restore_optimizer(self, optimizer_state: Mapping[str, Tensor]) -> None:
        """Load the result of `optimizer_state` of the same parameters."""
        numbered = self._numbered()
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in optimizer_state.items():
            number, _, name = key.partition(".")
            parameter, _ = numbered[int(number)]
            state[int(number)][name] = _share_of(parameter, value) if value.dim() else value
        self.optimizer.load_state_dict(
            {"state": dict(state), "param_groups": self.optimizer.state_dict()["param_groups"]}
        )

    def _numbered(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Each parameter with this process's part of it, in the optimizer's order."""
        parameters = {part: self.parameters[name] for name, part in self.parts.items()}
        return [
            (parameters[part], part)
            for group in self.optimizer.param_groups
            for part in group["params"]
        ]


def _gathered(tensors: Iterable[tuple[str, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Gather named tensors, each given with its parameter, for the main process; {} in others."""
    found: dict[str, Tensor] = {}
    for name, parameter, share in tensors:
        # Gathering needs all processes, also those that keep nothing.
        whole = _whole_of(parameter, share) if share.dim() else share
        if is_main():
            # A GPU that has shares has no room for the whole model.
            found[name] = whole.cpu() if is_share(parameter) else whole
    return found


def _local_part(parameter: nn.Parameter) -> nn.Parameter:
    """A view of this process's share of a parameter, or the parameter itself if it is whole."""
    return nn.Parameter(parameter.to_local()) if is_share(parameter) else parameter


def _share_of(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's share of a tensor that belongs to the parameter and has its shape."""
    if not is_share(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


def _whole_of(parameter: Tensor, share: Tensor) -> Tensor:
    """Gather a tensor that the processes have shares of; all have to call it."""
    if not is_share(parameter):
        return share
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    gathered = DTensor.from_local(
        share, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
    return gathered.full_tensor()
