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
from prefine.models.hf.architecture import accepted, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ComputeDtype = Literal["float32", "bfloat16"]

# Selected tokens are copied out and back, which does not pay for a few tokens less.
_MOST_SCORED = 0.9


def unwrapped(model: "PreTrainedModel") -> "PreTrainedModel":
    """The language model itself, which an adapter wraps."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


@torch.no_grad()
def layers_before_head(model: "PreTrainedModel") -> nn.Module:
    """The module whose output the head reads: the last to give hidden states before it is called.

    It is not always the `base_model` of `transformers`, which some decoders never call. Where the
    head does not give the model's own logits from that output alone, it is the whole model, and its
    logits stand for hidden states.

    Raises:
        ConfigError: The model cannot compute text alone.
    """
    model = unwrapped(model)
    head = output_head(model)
    # A frame for each call in progress: the last module that it called and that gave hidden states.
    frames: list[tuple[nn.Module, Tensor] | None] = [None]
    found: list[tuple[nn.Module, Tensor]] = []

    def entered(module: nn.Module, _: Any) -> None:
        if module is head:
            found.extend(last for last in reversed(frames) if last is not None)
        frames.append(None)

    def left(module: nn.Module, _: Any, output: Any) -> None:
        frames.pop()
        hidden = getattr(output, "last_hidden_state", None)
        if hidden is not None:
            frames[-1] = module, hidden

    hooks = [
        hook
        for module in model.modules()
        if module is not model
        for hook in (
            module.register_forward_pre_hook(entered),
            module.register_forward_hook(left),
        )
    ]
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    try:
        logits = model(input_ids=ids, **accepted(model, use_cache=False)).logits
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot compute the log-probabilities of text alone "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); choose another model"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        return model
    layers, hidden = found[0]
    try:
        again = after_layers(model, layers, hidden[0])
    except (TypeError, ValueError, AttributeError, IndexError):
        return model  # a head that reads more than the last hidden states
    same = again.shape == logits[0].shape and torch.allclose(again, logits[0], rtol=1e-2, atol=1e-3)
    return layers if same else model


class _LayersOutput:
    """Hidden states in place of the layers' output; whatever else a head may ask for is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]


def after_layers(
    model: "PreTrainedModel", layers: nn.Module, hidden: Float[Tensor, "n d"]
) -> Float[Tensor, "n V"]:
    """The logits that the model's own forward computes from what its layers gave."""
    if layers is unwrapped(model):
        return hidden
    output = _LayersOutput(hidden[None])
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with patched_forward(layers, lambda *_, **__: output):
        logits: Tensor = unwrapped(model)(input_ids=ids).logits
    return logits[0]


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
def skip_unscored(layers: nn.Module, scored: Int[Tensor, " S"], positions: int) -> Iterator[None]:
    """Skip unscored tokens in the last layer until the end of the block, backward passes included.

    Their last hidden states are then meaningless. A model whose layers are not called as most of
    `transformers` call theirs computes everything.

    Args:
        layers: Those before the head, attending to packed trees; no prompt is scored.
        scored: The positions of scored tokens; may name one twice.
        positions: The number of tokens.
    """
    scored = torch.unique(scored)
    with ExitStack() as stack:
        if len(scored) <= _MOST_SCORED * positions and (layer := _last_layer(layers)) is not None:
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


def _last_layer(layers: nn.Module) -> Any | None:
    """The last layer, if it has an attention and an MLP under their usual names."""
    all_layers = getattr(layers, "layers", None)
    if not isinstance(all_layers, nn.ModuleList) or not all_layers:
        return None
    last = all_layers[-1]
    attention, mlp = (getattr(last, name, None) for name in ("self_attn", "mlp"))
    if not isinstance(attention, nn.Module) or not isinstance(mlp, nn.Module):
        return None
    # `only_scored` reaches the attention function only through `**kwargs` that are handed on.
    parameters = signature(attention.forward).parameters.values()
    return last if any(p.kind is p.VAR_KEYWORD for p in parameters) else None
