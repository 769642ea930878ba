"""Where nothing reads a token's last hidden state: a prompt's tokens are there for their keys and values only.

So the last layer need not mix values for them, and its feed-forward network, which works on single
tokens, is asked for those alone that are scored.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefine.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A choice of rows is copied out and back, which a few tokens fewer do not pay for.
_MOST_READ = 0.9


def unwrapped(model: "PreTrainedModel") -> "PreTrainedModel":
    """The language model itself; one loaded with an adapter comes in a wrapper of its own."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


@contextmanager
def patched_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let the module call `forward` until the end of the block; one that others put there before is put back."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


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


@contextmanager
def skip_unscored(
    model: "PreTrainedModel", scored: Int[Tensor, " S"], positions: int
) -> Iterator[None]:
    """Let the last layer leave out what is not read until the end of the block; backward passes are to be within, too.

    What the model gives elsewhere is without meaning. A model whose layers are not called as most
    of `transformers` call theirs computes everything.

    Args:
        model: One that attends to packed trees; no prompt is scored.
        scored: What is read, indices of tokens; may name one twice.
        positions: How many tokens there are.
    """
    read = torch.unique(scored)
    with ExitStack() as stack:
        if len(read) <= _MOST_READ * positions and (layer := _last_layer(model)) is not None:
            attention, network = layer.self_attn, layer.mlp
            stack.enter_context(
                patched_forward(attention, partial(attention.forward, only_scored=True))
            )
            stack.enter_context(patched_forward(network, partial(_of_some, network.forward, read)))
        yield


def _of_some(
    whole: Callable[..., Any], read: Int[Tensor, " r"], hidden: Tensor, *others: Any, **named: Any
) -> Any:
    """The network's output for the tokens that are read, 0 for others; all of it if it takes or gives more."""
    if not others and not named:
        rows = hidden.flatten(0, -2)
        some = whole(rows.index_select(0, read).view(*hidden.shape[:-2], -1, hidden.shape[-1]))
        if isinstance(some, Tensor):
            return (
                some.new_zeros(rows.shape).index_copy_(0, read, some.flatten(0, -2)).view_as(hidden)
            )
    return whole(hidden, *others, **named)


def _last_layer(model: "PreTrainedModel") -> Any | None:
    """The last layer, if it has an attention and a network under their usual names."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not layers:
        return None
    attention, network = (getattr(layers[-1], name, None) for name in ("self_attn", "mlp"))
    if not isinstance(attention, nn.Module) or not isinstance(network, nn.Module):
        return None
    handed_on = any(
        some.kind is some.VAR_KEYWORD for some in signature(attention.forward).parameters.values()
    )
    return layers[-1] if handed_on else None
