"""A model's layers while it trains: computed again in the backward pass instead of kept, or compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prefine.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Call = Callable[..., Any]


def recomputed(layer: Call) -> Call:
    """Gradient checkpointing: the layer keeps its inputs only, and is called again in the backward pass."""
    # Nothing here draws random numbers, so their state need not be kept.
    return partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=False)


def compiled(layer: Call) -> Call:
    """The layer by torch.compile, once for rows of any length; attention stays outside."""
    return torch.compile(layer, dynamic=True)


@contextmanager
def changed_layers(model: "PreTrainedModel", *changes: Callable[[Call], Call]) -> Iterator[None]:
    """Let the model's layers be called through `changes`, the first one innermost, until the end of the block.

    `transformers` itself would compute layers again in training mode only, which turns dropout on.

    Raises:
        ConfigError: The model does not say what its layers are.
    """
    layers = _layers(model) if changes else []
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        for change in changes:
            layer.forward = change(layer.forward)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del layer.forward
            else:
                layer.forward = own


def _layers(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that `transformers` would checkpoint."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        within = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, GradientCheckpointingLayer) and not within:
            found[name] = module
    if not found:
        raise ConfigError(
            f"{type(model).__name__} does not say what its layers are; leave train.gradient_checkpointing and "
            "train.compile off, and lower train.micro_batch_tokens if memory is short"
        )
    return list(found.values())
