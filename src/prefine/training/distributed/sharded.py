"""Layers divided among processes (FSDP2): each process keeps a share, and the whole of one only while it computes.

Embeddings, the last norm and the head stay whole in every process: the head works on its whole
weight, without autograd. All processes have to pass through the layers equally often, see
`Forward.passes`.
"""

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from prefine.training.distributed.processes import is_share
from prefine.training.forward.layers import layers_of, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Before(NamedTuple):
    """What a module was before."""

    kind: type
    state: dict[str, Any]


class ShardedLayers:
    """The layers of a model, divided from now until `join`.

    Args:
        model: Has the same weights in all processes, each on its device.
        reshard: Whether a layer is given back after its forward pass and collected again for the
            backward one; without, weights take the memory of a whole model during a step.

    Raises:
        ConfigError: The model does not say what its layers are.
    """

    def __init__(self, model: "PreTrainedModel", *, reshard: bool) -> None:
        from torch import distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._base = unwrapped(model).base_model
        self._before = {
            module: _Before(type(module), _kept(module)) for module in self._base.modules()
        }
        layers = layers_of(self._base, why="FSDP")
        mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
        self._layers = [
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard) for layer in layers
        ]
        for layer in self._layers:
            # Gradients are already shares of the step's mean; and gloo cannot multiply while it
            # sums.
            layer.set_gradient_divide_factor(1.0)
            layer.set_force_sum_reduction_for_comms(True)
        within = {parameter for layer in layers for parameter in layer.parameters()}
        others = {parameter for parameter in self._base.parameters() if parameter not in within}
        # Divides nothing, but lets a layer be collected while the one before it computes.
        fully_shard(self._base, mesh=mesh, reshard_after_forward=False, ignored_params=others)

    @torch.no_grad()
    def join(self) -> None:
        """Make the model what it was, with its weights of now, whole in every process."""
        for layer in self._layers:
            layer.reshard()
        for module, before in self._before.items():
            parameters = module._parameters
            vars(module).clear()
            vars(module).update(before.state, _parameters=parameters)
            module.__class__ = before.kind
            for name, parameter in parameters.items():
                if parameter is not None and is_share(parameter):
                    # In place of the share, so that one weight at a time is there twice.
                    parameters[name] = nn.Parameter(
                        parameter.full_tensor(), requires_grad=parameter.requires_grad
                    )


def _kept(module: nn.Module) -> dict[str, Any]:
    """All that a module is but its weights, as a copy that what is added to its tables does not reach."""
    return {
        name: copy(value) if isinstance(value, dict | set) else value
        for name, value in vars(module).items()
        if name != "_parameters"
    }


def own_part(parameter: nn.Parameter) -> nn.Parameter:
    """What this process updates of a parameter: a view of its share, or the parameter itself."""
    return nn.Parameter(parameter.to_local()) if is_share(parameter) else parameter


def share_of(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's share of a tensor that belongs to the parameter and has its shape."""
    if not is_share(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, places = parameter.device_mesh, parameter.placements
    return distribute_tensor(
        whole.to(parameter.device), mesh, places, src_data_rank=None
    ).to_local()


def whole_of(parameter: Tensor, share: Tensor) -> Tensor:
    """The tensor that the processes have shares of; all have to ask for it."""
    if not is_share(parameter):
        return share
    from torch.distributed.tensor import DTensor

    mesh, places = parameter.device_mesh, parameter.placements
    held = DTensor.from_local(
        share, mesh, places, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
    return held.full_tensor()
