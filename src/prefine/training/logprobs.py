"""Summed log-probabilities of the completions in a micro-batch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from prefine.training.batches import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ComputeDtype = Literal["float32", "bfloat16"]


class SideLogps(NamedTuple):
    """Summed completion log-probabilities of both sides, nats."""

    chosen: Float[Tensor, " B"]
    rejected: Float[Tensor, " B"]


def pair_logps(model: "PreTrainedModel", batch: MicroBatch, *, dtype: ComputeDtype = "float32") -> SideLogps:
    """Summed log-probabilities of every completion in the micro-batch; gradients flow unless switched off.

    The softmax and the sums are float32 whatever the model computes in, and float64 for a float64 model.

    Args:
        model: A causal language model, dropout off.
        batch: Padded rows.
        dtype: What the layers compute in; "bfloat16" keeps the weights as they are.
    """
    with _head_on_scored_positions(model, batch.scored), _compute_in(dtype, batch.input_ids.device):
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).logits
    if logits.shape[:2] == batch.scored.shape:
        logits = logits[batch.scored]
    logits = logits.reshape(len(batch.targets), -1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    token_logps = -cross_entropy(logits, batch.targets, reduction="none")
    rows = token_logps.new_zeros(batch.scored.shape).masked_scatter(batch.scored, token_logps).sum(dim=1)
    chosen, rejected = rows.chunk(2)
    return SideLogps(chosen, rejected)


@contextmanager
def _head_on_scored_positions(model: "PreTrainedModel", scored: Tensor) -> Iterator[None]:
    """Feed the output head only the positions whose next token is scored.

    The selection happens at the head's own input, inside the model's forward: whatever the model does to its logits
    afterwards (scale, soft-cap) is still done. A head that is not called with `[rows, positions, d]` is left alone.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        yield
        return
    index = scored.flatten().nonzero().squeeze(1)

    def select(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) != 1 or args[0].dim() != 3 or args[0].shape[:2] != scored.shape:
            return None
        return (args[0].flatten(0, 1).index_select(0, index).unsqueeze(0),)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _compute_in(dtype: ComputeDtype, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
