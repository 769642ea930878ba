"""Layers divided among processes (FSDP2): each keeps a share, and gathers a layer to compute it.

Embeddings, the last norm and the head stay whole in every process: the head works on its whole
weight, without autograd. All processes have to pass through the layers equally often, see
`Forward.passes`.
"""

from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
