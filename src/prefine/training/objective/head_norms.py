"""Norms of the output head's gradients: what moves each of the two sides of a step's pairs."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed.processes import add_up
from prefine.training.forward.head import output_weight
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import on_tokens
from prefine.training.items import TokenizedItem
from prefine.training.memory import synchronized_oom
from prefine.training.objective.item_table import ItemTable
from prefine.training.relations.pairs import TokenizedPair


def head_norms(
    forward: Forward,
    batches: Sequence[PackedBatch],
    table: ItemTable,
    examples: Sequence[TokenizedItem],
) -> Float[Tensor, " 2"]:
    """The norms of the gradients in the head's weight of weighted sums of log-probabilities.

    The first is of the sum over the step's chosen answers, the second over its rejected ones, each
    with its pair's weight; items that are no pairs are left out. It costs a pass through the
    layers. All processes get the same values.

    Args:
        forward: The passes through the policy, whose `.grad` are empty.
        batches: The batches of the step, or this process's share of them.
        table: All items.
        examples: All items.
    """
    like = output_weight(forward.head)
    sums = torch.zeros(
        2, *like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device
    )
    with synchronized_oom(in_step=forward.in_step):
        for batch in forward.passes(batches):
            sides = _sides(batch, table, examples)
            for total, found in zip(sums, forward.head_gradients(batch, sides), strict=True):
                total += found
    norms: Tensor = torch.linalg.vector_norm(add_up(sums).flatten(1), dim=1, dtype=torch.float64)
    return norms


def _sides(
    batch: PackedBatch, table: ItemTable, examples: Sequence[TokenizedItem]
) -> list[Float[Tensor, " S"]]:
    """The weights of the scored tokens of chosen answers, and those of rejected ones."""
    items, starts = batch.items.cpu(), (batch.counts.cumsum(0) - batch.counts).cpu()
    is_pair = torch.tensor([isinstance(examples[item], TokenizedPair) for item in items.tolist()])
    weight = table.weight[batch.items.to(table.weight.device)].cpu()
    found = []
    for side in (0, 1):
        of_texts = weight.new_zeros(batch.text_lengths.shape)
        # A completion's first text is itself, the other one its prompt.
        of_texts[starts[is_pair] + side, 0] = weight[is_pair]
        found.append(on_tokens(batch, batch.whole_span, of_texts))
    return found
