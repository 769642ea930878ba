"""Layers divided among processes (FSDP2): each keeps a share, and gathers a layer to compute it.

Embeddings, the last norm and the head stay whole in every process: the head works on its whole
weight, without autograd. All processes have to pass through the layers equally often, see
`Forward.passes`.
"""

from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prefine.training.distributed.processes import is_share
from prefine.training.forward.layers import layers_of, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ShardedLayers:
    """The layers of a model, divided from now until `join`.

    Args:
        model: Has the same weights in all processes, each on its device.
        reshard: Whether a layer is freed after its forward pass and gathered again for the
            backward one; otherwise weights take the memory of a whole model during a step.

    Raises:
        ConfigError: The model does not say what its layers are.
    """

    def __init__(self, model: "PreTrainedModel", *, reshard: bool) -> None:
        from torch import distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        base = unwrapped(model).base_model
        self._before = {module: (type(module), _attributes(module)) for module in base.modules()}
        layers = layers_of(base, why="FSDP")
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
        others = {parameter for parameter in base.parameters() if parameter not in within}
        # Divides nothing, but lets a layer be gathered while the one before it computes.
        fully_shard(base, mesh=mesh, reshard_after_forward=False, ignored_params=others)

    @torch.no_grad()
    def join(self) -> None:
        """Make the model an ordinary one again, with its current weights whole in every process."""
        for layer in self._layers:
            layer.reshard()
        for module, (kind, attributes) in self._before.items():
            parameters = module._parameters
            vars(module).clear()
            vars(module).update(attributes, _parameters=parameters)
            module.__class__ = kind
            for name, parameter in parameters.items():
                if parameter is not None and is_share(parameter):
                    # In place of the share, so that one weight at a time is there twice.
                    parameters[name] = nn.Parameter(
                        parameter.full_tensor(), requires_grad=parameter.requires_grad
                    )


def _attributes(module: nn.Module) -> dict[str, Any]:
    """A copy of a module's attributes but its weights, which later additions do not reach."""
    return {
        name: copy(value) if isinstance(value, dict | set) else value
        for name, value in vars(module).items()
        if name != "_parameters"
    }


def local_part(parameter: nn.Parameter) -> nn.Parameter:
    """A view of this process's share of a parameter, or the parameter itself if it is whole."""
    return nn.Parameter(parameter.to_local()) if is_share(parameter) else parameter


def share_of(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's share of a tensor that belongs to the parameter and has its shape."""
    if not is_share(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    whole = whole.to(parameter.device)
    return distribute_tensor(whole, mesh, placements, src_data_rank=None).to_local()


def whole_of(parameter: Tensor, share: Tensor) -> Tensor:
    """Gather a tensor that the processes have shares of; all have to call it."""
    if not is_share(parameter):
        return share
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    gathered = DTensor.from_local(
        share, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
    return gathered.full_tensor()
