"""Attention of packed trees on CUDA by FlexAttention: one fused kernel a row, and blocks that nobody sees are skipped.

What a token sees of its row are two runs of neighbours: some of its prompt, and its own past. Where
they begin and end says all, windows included, so one compiled kernel serves every layout.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from prefine.training.batches.packing import Layout
from prefine.training.forward.attention.blockwise import AttentionRule

BLOCK = 128
"""Rows are padded to a multiple of it; blocks of so many queries and keys are skipped, whole or looked at."""
_OWN_KERNEL = 1024
_WIDTHS = range(16, 257)
_DTYPES = (torch.bfloat16, torch.float16)


def flex_dtype(query: Tensor) -> torch.dtype | None:
    """What the kernel would compute these queries in; None where it is not to be used.

    That is outside CUDA, in float32, whose exact products are no faster here than tree by tree, and
    for heads whose width it does not know.
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
    """The mixed values of one row.

    Args:
        query: Positions already turned in.
        key: As many heads, or a divisor of it.
        value: The same.
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
    mixed = kernel(
        query,
        key,
        value,
        score_mod=None if rule.softcap is None else _capped(rule.softcap, query.device),
        block_mask=block_mask(trees, padded, rule.window, query.device),
        scale=rule.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return mixed[:, :, :length].transpose(1, 2)


def padded_length(length: int) -> tuple[int, bool]:
    """What a row is padded to, and whether its kernel serves any length.

    A row that nearly is a power of two long, as full rows are, becomes that: a kernel for one
    length is a quarter faster. The others share a kernel, so that few are compiled.
    """
    power = 1 << (length - 1).bit_length()
    if power >= _OWN_KERNEL and length > power * 15 // 16:
        return power, False
    return -(-length // BLOCK) * BLOCK, True


@lru_cache(maxsize=4)
def block_mask(trees: Layout, length: int, window: int | None, device: torch.device) -> BlockMask:
    """The mask of a row padded to `length`; the same for all layers with this window, and both directions."""
    first, stop, own = runs = seen_runs(trees, length, window).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen: Tensor = ((key >= first[query]) & (key < stop[query])) | (
            (key >= own[query]) & (key <= query)
        )
        return seen

    some, whole = _blocks(runs)
    return BlockMask.from_kv_blocks(
        *_numbered(some & ~whole),
        *_numbered(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(length, length),
    )


def seen_runs(trees: Layout, length: int, window: int | None = None) -> Int[Tensor, "3 T"]:
    """What each token of a row sees: the places `runs[0]` to before `runs[1]`, and `runs[2]` up to itself.

    The first is some of a completion's prompt, or nothing. Padding sees itself.
    """
    place = torch.arange(length, dtype=torch.int32)
    runs = torch.stack([torch.zeros_like(place), torch.zeros_like(place), place])
    for tree in trees:
        prompt = (tree.start, tree.start + tree.prompt)
        for a, b, before in ((*prompt, 0), *((*branch, tree.prompt) for branch in tree.branches)):
            runs[0, a:b], runs[1, a:b], runs[2, a:b] = tree.start, tree.start + before, a
            if window is not None:
                nearest = place[a:b] - (window - 1)
                runs[2, a:b] = nearest.clamp(min=a)
                # In the prompt a place is as far as its position, and the completion goes on from
                # the prompt's end.
                runs[0, a:b] = (nearest - a + tree.start + before).clamp(min=tree.start)
    return runs


def _blocks(runs: Int[Tensor, "3 T"]) -> tuple[Tensor, Tensor]:
    """Which blocks of queries [n] see some of a block of keys [n], and which see all of it."""
    first, stop, own = runs[:, :, None]
    place = torch.arange(runs.shape[1], device=runs.device, dtype=runs.dtype)[:, None]
    begin = torch.arange(0, runs.shape[1], BLOCK, device=runs.device, dtype=runs.dtype)
    end = begin + BLOCK
    prompt = (torch.minimum(stop, end) - torch.maximum(first, begin)).clamp_(min=0)
    past = (torch.minimum(place + 1, end) - torch.maximum(own, begin)).clamp_(min=0)
    seen = (prompt + past).view(-1, BLOCK, len(begin))
    return (seen > 0).any(1), (seen == BLOCK).all(1)


def _numbered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of each row are true [1, 1, n], and their numbers in order, the others behind [1, 1, n, n]."""
    count = blocks.sum(-1, dtype=torch.int32)
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return count[None, None], numbers[None, None].contiguous()


_KERNELS = 64
"""Kernels that may be compiled: lengths of full rows, with gradients and without, each shape of a model."""


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
    # know.
    bound = torch.tensor(softcap, device=device)

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return bound * torch.tanh(score / bound)

    return capped
