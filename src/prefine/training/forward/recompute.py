"""Gradient checkpointing: a layer keeps its inputs only, and is computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.checkpoint import checkpoint

from prefine.errors import ConfigError
from prefine.training.forward.patched_forward import patched_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def recomputed_layers(model: "PreTrainedModel") -> Iterator[None]:
    """Compute the model's layers again in backward passes; these have to end within the block as well.

    `transformers` itself would do so in training mode only, which turns dropout on.

    Raises:
        ConfigError: The model does not say what its layers are.
    """
    with ExitStack() as stack:
        for layer in layers_of(model, why="train.gradient_checkpointing"):
            # Nothing here draws random numbers, so their state need not be kept.
            again = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )
            stack.enter_context(patched_forward(layer, again))
        yield


def layers_of(model: nn.Module, *, why: str) -> list[nn.Module]:
    """The outermost modules that `transformers` would checkpoint.

    Args:
        model: From `transformers`.
        why: What they are asked for, for the message.

    Raises:
        ConfigError: The model does not say what its layers are.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        within = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, GradientCheckpointingLayer) and not within:
            found[name] = module
    if not found:
        raise ConfigError(
            f"{why}: {type(model).__name__} does not say what its layers are; do without, and "
            "lower "
            "train.micro_batch_tokens if memory is short"
        )
    return list(found.values())
