"""An estimate of the memory of training, made without any weights.

The model is built on torch's `meta` device, whose tensors have shapes and no content. What the
layers keep for the backward pass is counted by passing one full row through them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefine.config.training import TrainConfig
from prefine.models.hf.architecture import freeze_other_parts, skeleton, text_part
from prefine.models.hf.reward_head import reward_skeleton
from prefine.training import adapter
from prefine.training.forward.attention.blockwise import KEPT_KEYS
from prefine.training.forward.head import workspace_positions
from prefine.training.forward.layers import layers_of, unwrapped

_ATTENTION = "prefine_estimate"
_MEASURED_TOKENS = 2 * KEPT_KEYS
_OPTIMIZER_STATES = 2  # AdamW keeps two moments of every trained weight


class TrainingMemory(NamedTuple):
    """Bytes on the device of the policy.

    `reference` is the model of `train.reference` if there is one, in memory before the others;
    `activations` are those of one row of `micro_batch_tokens`, `head` the logits of a chunk of
    positions, `followers` the copies of what is trained that a step source holds.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    activations: int
    head: int
    followers: int = 0

    @property
    def total(self) -> int:
        """The most at a time: the reference has been scored when training begins."""
        return max(self.reference, sum(self) - self.reference)


def training_memory(
    path: str, config: TrainConfig, *, device: str, reference: str | None = None
) -> TrainingMemory:
    """Estimate the peak memory of training a model.

    Args:
        path: Folder or hub id of the policy.
        config: The settings.
        device: Type of the device, "cpu" or "cuda"; it decides how much the head takes.
        reference: Folder or hub id of another reference model, if there is one.

    Raises:
        BackendError: There is no such model.
    """
    model = skeleton(path) if config.reward is None else reward_skeleton(path)
    freeze_other_parts(model)
    frozen = config.adapter is not None and config.dtype == "bfloat16"
    if not frozen:
        model.float()
    if config.adapter is not None:
        with torch.device("meta"):
            adapter.attach(model, config.adapter, seed=0)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    vocabulary = 1 if config.reward else int(model.config.get_text_config().vocab_size)
    positions = min(workspace_positions(vocabulary, device), config.micro_batch_tokens)
    return TrainingMemory(
        weights=weights,
        gradients=4 * trained,
        optimizer=4 * _OPTIMIZER_STATES * trained,
        reference=0 if reference is None else _size(skeleton(reference).float()),
        activations=_activations(model, config),
        head=4 * vocabulary * positions,
        followers=4 * _copies(config) * trained,
    )


def _copies(config: TrainConfig) -> int:
    """The copies of what is trained that the step source holds, in single precision."""
    source = config.step_source
    found = source.lookup("step_source", where="train.step_source")
    copies = getattr(found, "weight_copies", None)
    return 0 if copies is None else int(copies(source.options))


def _size(model: Any) -> int:
    return sum(one.numel() * one.element_size() for one in model.parameters())


def _activations(model: Any, config: TrainConfig) -> int:
    """Bytes that the layers keep of one row; with checkpointing, their inputs and one layer's."""
    # Per token the same from here on, as no more probabilities are kept.
    measured = min(config.micro_batch_tokens, _MEASURED_TOKENS)
    kept = _kept(model, measured) * config.micro_batch_tokens // measured
    if config.gradient_checkpointing:
        layers = len(layers_of(unwrapped(model), why="train.gradient_checkpointing"))
        width = int(model.config.get_text_config().hidden_size)
        kept = kept // layers + 4 * layers * width * config.micro_batch_tokens
    # Under autocast most of what is kept is half as wide, and the weights are kept rounded, too.
    return kept // 2 if config.dtype == "bfloat16" else kept


def _kept(model: Any, tokens: int) -> int:
    """Bytes of all tensors that one row of tokens leaves for the backward pass, weights aside."""
    sizes: dict[int, int] = {}
    held: list[Tensor] = []  # a storage's address names it only as long as it is held

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    whole = unwrapped(model)
    part = text_part(whole)[0]
    decoder = whole.base_model if part is whole else part
    row = torch.arange(tokens, device="meta")[None]
    # Given whole, a mask is handed on as it is: `transformers` would look at values to make one.
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    with _counted_attention(model), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        decoder(input_ids=row, position_ids=row, attention_mask=mask, use_cache=False)
    for one in (*model.parameters(), *model.buffers()):
        sizes.pop(one.untyped_storage()._cdata, None)
    return sum(sizes.values())


class _Kept(torch.autograd.Function):
    """Attention that computes nothing and keeps what the engine's own attention keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads, length = query.shape[1], query.shape[2]
        output = query.new_empty(1, length, heads, value.shape[-1])
        probabilities = query.new_empty(heads, length, min(length, KEPT_KEYS) // 2)
        ctx.save_for_backward(query, key, value, output, probabilities)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("nothing is computed")


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **others: Any
) -> tuple[Tensor, None]:
    output: Tensor = _Kept.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output, None


@contextmanager
def _counted_attention(model: Any) -> Iterator[None]:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, lambda *_, **__: None)
    before = model.config._attn_implementation
    unwrapped(model).set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        unwrapped(model).set_attn_implementation(before)
