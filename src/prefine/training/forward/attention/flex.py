"""Attention over packed trees on CUDA by FlexAttention: one fused kernel per row, skipping blocks.

A token sees two ranges of its row: some of its prompt, and its own past. Their ends are data of the
mask, windows included, so one compiled kernel serves every layout.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from prefine.training.batches.packing import Layout
from prefine.training.forward.attention.visibility import AttentionRule, visible_ranges

BLOCK = 128
"""Side of a block of queries and keys, which is skipped, whole or masked; rows are padded to it."""
_OWN_KERNEL = 1024
_WIDTHS = range(16, 257)
_DTYPES = (torch.bfloat16, torch.float16)


def flex_dtype(query: Tensor) -> torch.dtype | None:
    """The dtype in which the kernel computes these queries; None where it is not to be used.

    That is outside CUDA, in float32, whose exact products are no faster here than tree by tree, and
    for heads of a width that it does not support.
    """
    if not query.is_cuda or query.shape[-1] not in _WIDTHS:
        return None
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    return dtype if dtype in _DTYPES else None


def flex_tree_attention(
    query: Float[Tensor, "1 heads T d"],
    key: Float[Tensor, "1 kv_heads T d"],
    value: Float[Tensor, "1 kv_heads T d"],
    trees: Layout,
    rule: AttentionRule,
    *,
    attend: Callable[..., Tensor] | None = None,
) -> Float[Tensor, "1 T heads d"]:
    """The attention output of one row.

    Args:
        query: After rotary embedding.
        key: After rotary embedding; the number of heads divides that of the query.
        value: As many heads as the key.
        trees: The trees that fill the row.
        rule: Scale, window and soft-cap.
        attend: FlexAttention; None is the one that is compiled for this process.
    """
    length = query.shape[2]
    padded, dynamic = padded_length(length)
    # Rows that need no padding come as the model laid them: other strides are another kernel to the
    # compiler.
    query, key, value = (
        pad(rows, (0, 0, 0, padded - length)).contiguous() for rows in (query, key, value)
    )
    kernel: Callable[..., Tensor] = _compiled(dynamic) if attend is None else attend
    output = kernel(
        query,
        key,
        value,
        score_mod=None if rule.softcap is None else _capped(rule.softcap, query.device),
        block_mask=block_mask(trees, padded, rule.window, query.device),
        scale=rule.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[:, :, :length].transpose(1, 2)


def padded_length(length: int) -> tuple[int, bool]:
    """The length to which a row is padded, and True if its kernel serves any length.

    A row that nearly is a power of two long, as full rows are, becomes that: a kernel for one
    length is a quarter faster. The others share a kernel, so that few are compiled.
    """
    power = 1 << (length - 1).bit_length()
    if power >= _OWN_KERNEL and length > power * 15 // 16:
        return power, False
    return -(-length // BLOCK) * BLOCK, True


@lru_cache(maxsize=4)
def block_mask(trees: Layout, length: int, window: int | None, device: torch.device) -> BlockMask:
    """The mask of a row padded to `length`; shared by all layers with this window."""
    first, stop, own = ranges = visible_ranges(trees, length, window).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = ((key >= first[query]) & (key < stop[query])) | (
            (key >= own[query]) & (key <= query)
        )
        return seen

    some, whole = _blocks(ranges)
    return BlockMask.from_kv_blocks(
        *_numbered(some & ~whole),
        *_numbered(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def _blocks(ranges: Int[Tensor, "3 T"]) -> tuple[Bool[Tensor, "n n"], Bool[Tensor, "n n"]]:
    """Tables of the blocks of queries that see some of a block of keys, and that see all of it."""
    # A token sees as many keys of a block as the overlaps of its two ranges with it have.
    first, stop, own = ranges[:, :, None]
    place = torch.arange(ranges.shape[1], device=ranges.device, dtype=ranges.dtype)[:, None]
    begin = place[::BLOCK, 0]
    end = begin + BLOCK
    prompt = (torch.minimum(stop, end) - torch.maximum(first, begin)).clamp_(min=0)
    past = (torch.minimum(place + 1, end) - torch.maximum(own, begin)).clamp_(min=0)
    seen = (prompt + past).view(-1, BLOCK, len(begin))
    return (seen > 0).any(1), (seen == BLOCK).all(1)


def _numbered(
    blocks: Bool[Tensor, "n n"],
) -> tuple[Int[Tensor, "1 1 n"], Int[Tensor, "1 1 n n"]]:
    """The number of true blocks of each row, and their indices in order, before the others'."""
    count = blocks.sum(-1, dtype=torch.int32)
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return count[None, None], numbers[None, None].contiguous()


_KERNELS = 64
"""Most compiled kernels: lengths of full rows, with and without gradients, shapes of a model."""


@cache
def _compiled(dynamic: bool) -> Callable[..., Tensor]:
    # Beyond the limit, eight as torch has it, FlexAttention silently makes all scores of a row at
    # once. Not above: it takes seconds to import.
    from torch import _dynamo

    limits: Any = _dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _KERNELS)
    attend: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=dynamic)
    return attend


@cache
def _capped(softcap: float, device: torch.device) -> Callable[..., Tensor]:
    # A tensor: torch.compile would take a number for one that changes, which the kernel does not
    # support.
    bound = torch.tensor(softcap, device=device)

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return bound * torch.tanh(score / bound)

    return capped
