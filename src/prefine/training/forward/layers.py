"""Changes to the layers during a pass: gradient checkpointing, skipped prompt tokens.

Nothing reads a prompt token's last hidden state: prompt tokens are there for their keys and values
only. So the last layer need not attend for them, and its MLP is applied to scored tokens only.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefine.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ComputeDtype = Literal["float32", "bfloat16"]

# Selected tokens are copied out and back, which does not pay for a few tokens less.
_MOST_SCORED = 0.9


def unwrapped(model: "PreTrainedModel") -> "PreTrainedModel":
    """The language model itself, which an adapter wraps."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def computing_in(dtype: ComputeDtype, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in this dtype until the end of the block; the weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


@contextmanager
def patched_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's `forward` until the end of the block."""
    # Other libraries patch it in the same way, as an attribute of the instance.
    earlier = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if earlier is None:
            del module.forward
        else:
            module.forward = earlier


@contextmanager
def recomputed_layers(model: "PreTrainedModel") -> Iterator[None]:
    """Compute the model's layers again in backward passes, which have to end within the block.

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
        why: The setting that asks for them, for the message.

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
            "lower train.micro_batch_tokens if memory is short"
        )
    return list(found.values())


@contextmanager
def skip_unscored(
    model: "PreTrainedModel", scored: Int[Tensor, " S"], positions: int
) -> Iterator[None]:
    """Skip unscored tokens in the last layer until the end of the block, backward passes included.

    Their last hidden states are then meaningless. A model whose layers are not called as most of
    `transformers` call theirs computes everything.

    Args:
        model: One that attends to packed trees; no prompt is scored.
        scored: The positions of scored tokens; may name one twice.
        positions: The number of tokens.
    """
    scored = torch.unique(scored)
    with ExitStack() as stack:
        if len(scored) <= _MOST_SCORED * positions and (layer := _last_layer(model)) is not None:
            attention, mlp = layer.self_attn, layer.mlp
            stack.enter_context(
                patched_forward(attention, partial(attention.forward, only_scored=True))
            )
            stack.enter_context(patched_forward(mlp, partial(_mlp_of, mlp.forward, scored)))
        yield


def _mlp_of(
    mlp: Callable[..., Any],
    scored: Int[Tensor, " s"],
    hidden: Float[Tensor, "rows positions d"],
    *others: Any,
    **named: Any,
) -> Any:
    """Apply an MLP to scored tokens; others get 0. One that takes or gives more gets all tokens."""
    if not others and not named:
        tokens = hidden.flatten(0, -2)
        output = mlp(tokens.index_select(0, scored).view(*hidden.shape[:-2], -1, hidden.shape[-1]))
        if isinstance(output, Tensor):
            everywhere = output.new_zeros(tokens.shape)
            return everywhere.index_copy_(0, scored, output.flatten(0, -2)).view_as(hidden)
    return mlp(hidden, *others, **named)


def _last_layer(model: "PreTrainedModel") -> Any | None:
    """The last layer, if it has an attention and an MLP under their usual names."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not layers:
        return None
    attention, mlp = (getattr(layers[-1], name, None) for name in ("self_attn", "mlp"))
    if not isinstance(attention, nn.Module) or not isinstance(mlp, nn.Module):
        return None
    # `only_scored` reaches the attention function only through `**kwargs` that are handed on.
    parameters = signature(attention.forward).parameters.values()
    return layers[-1] if any(p.kind is p.VAR_KEYWORD for p in parameters) else None
