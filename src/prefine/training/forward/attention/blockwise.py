"""Attention over packed trees as products of blocks: no mask over the row, half the products.

First completions lie behind their prompts in the row, as they are read. For every other completion,
its keys are copied behind its prompt's into a buffer, whose index is the position. All are then
plain causal attention, cut into blocks of queries that each meet the keys up to their own end.
Short trees side by side are one block under a mask: a few idle products cost less than many calls.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefine.training.batches.packing import Layout, Tree
from prefine.training.forward.attention.visibility import AttentionRule, visible

QUERIES = 128
"""Most queries of a block, and tokens of short trees in one: few waste less, many save calls."""
KEPT_KEYS = 512
"""Up to this many keys, probabilities are kept for the backward pass; more are computed again."""


class _Kind(NamedTuple):
    """The dependencies of masks beside their size: query heads per key head, dtype and device."""

    heads_per_key: int
    dtype: torch.dtype
    device: torch.device


class _QueryBlock(NamedTuple):
    """Queries, as a slice of the row, and the keys that they meet, by position and in the row.

    `mask` is added to the scores' last columns, as many as it has; None where the window hides some
    of the keys, as such a mask is too large to be kept.
    """

    queries: slice
    keys: slice
    key_rows: tuple[slice, ...]
    mask: Tensor | None


class _Segment(NamedTuple):
    """Tokens that are plain causal attention, or short trees under one mask, and their blocks.

    Positions count from the start of `rows`, or, for a completion that does not stand behind its
    prompt, from the start of its `tree`.
    """

    rows: slice
    tree: Tree | None
    blocks: tuple[_QueryBlock, ...]


@lru_cache(maxsize=16)
def _plan(layout: Layout, rule: AttentionRule, kind: _Kind) -> tuple[_Segment, ...]:
    """The segments of a row; the same for all layers with this window, and for both directions."""
    segments: list[_Segment] = []
    for trees in _bundles(layout):
        tree, rows = trees[0], slice(trees[0].start, trees[-1].stop)
        if rows.stop - rows.start <= QUERIES:
            mask = _additive(~visible(trees, rule.window), kind)
            block = _QueryBlock(rows, slice(0, rows.stop - rows.start), (rows,), mask)
            segments.append(_Segment(rows, None, (block,)))
            continue
        # The prompt with its first completion, in the row as they are read: one text without a gap.
        rows = slice(tree.start, tree.branches[0][1])
        first = tree.prompt_length - 1 if rule.only_scored else 0
        positions = slice(first, rows.stop - rows.start)
        blocks = _query_blocks(positions, tree.start, positions.stop, rows.stop, rule, kind)
        segments.append(_Segment(rows, None, tuple(blocks)))
        for start, stop in tree.branches[1:]:
            if start < stop:
                split = tree.prompt_length
                positions = slice(split, split + stop - start)
                blocks = _query_blocks(positions, tree.start, split, start, rule, kind)
                segments.append(_Segment(slice(start, stop), tree, tuple(blocks)))
    return tuple(segments)


def _bundles(layout: Layout) -> Iterator[Layout]:
    """Neighbouring trees together while they have at most `QUERIES` tokens; a longer tree alone."""
    start = 0
    for at, tree in enumerate(layout):
        if at > start and tree.stop - layout[start].start > QUERIES:
            yield layout[start:at]
            start = at
    yield layout[start:]


def _query_blocks(
    positions: slice,
    prompt_start: int,
    split: int,
    rest_start: int,
    rule: AttentionRule,
    kind: _Kind,
) -> Iterator[_QueryBlock]:
    """Cut the queries of a text into blocks; the text may stand in the row in two pieces.

    Blocks are about equally long: a long and a short one would waste more above the diagonal, and
    products like multiples of 16.

    Args:
        positions: Those of the queries.
        prompt_start: Where in the row position 0 is.
        split: The first position of the second piece, in which all queries are if there is one.
        rest_start: Where in the row that position is.
        rule: Its window limits the keys.
        kind: That of the masks.
    """
    length = positions.stop - positions.start
    size = 16 * math.ceil(length / (16 * math.ceil(length / QUERIES)))
    for begin in range(positions.start, positions.stop, size):
        end = min(begin + size, positions.stop)
        first = 0 if rule.window is None else max(0, begin - rule.window + 1)
        key_rows = (
            slice(prompt_start + first, prompt_start + min(end, split)),
            slice(rest_start + max(first, split) - split, rest_start + end - split),
        )
        banded = rule.window is not None and end - first > rule.window
        yield _QueryBlock(
            slice(rest_start + begin - split, rest_start + end - split),
            slice(first, end),
            tuple(rows for rows in key_rows if rows.start < rows.stop),
            None if banded else _causal_mask(end - begin, kind),
        )


class TreeAttention(torch.autograd.Function):
    """softmax(scale * q k^T) v, every completion on its prompt and its own past."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "heads T d"],
        k: Float[Tensor, "kv_heads T d"],
        v: Float[Tensor, "kv_heads T d"],
        layout: Layout,
        rule: AttentionRule,
    ) -> Float[Tensor, "T heads d"]:
        """Attention over one row; query heads may be a multiple of the key heads.

        Args:
            ctx: Torch's.
            q: Queries, after rotary embedding.
            k: Keys, after rotary embedding.
            v: Values.
            layout: The trees that fill the row.
            rule: Scale, window and soft-cap; what is not scored may be left at 0.
        """
        heads, tokens, _ = q.shape
        make = q.new_zeros if rule.only_scored else q.new_empty
        out = make(tokens, heads, v.shape[-1])
        out_by_key = _by_key_head(out.transpose(0, 1), len(k))
        queries = _dense(_by_key_head(q, len(k)) * rule.scale)
        kept: list[Tensor | None] = []
        keeping = any(ctx.needs_input_grad) and rule.softcap is None
        for block, keys, values in _steps(layout, k, v, rule, heads // len(k)):
            p = _probabilities(_rows(queries, block), keys, block, rule)
            out_by_key[:, block.queries] = torch.bmm(p, values).view(
                len(k), -1, heads // len(k), v.shape[-1]
            )
            kept.append(p if keeping and p.shape[-1] <= KEPT_KEYS else None)
        # All by torch's own way, or gradient checkpointing would keep what it is there to drop.
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.rule = layout, rule
        return out

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "T heads d"]) -> tuple[Tensor | None, ...]:
        """The gradients in q, k and v."""
        # Block by block in the order of the forward pass: first the probabilities p, kept or
        # computed again, then ds, the gradient in the scores, then the products that give back.
        # Every token is a query of at most one block, so dq is written; as a key it is met by
        # many, so dk and dv are summed.
        q, k, v, *kept = ctx.saved_tensors
        rule: AttentionRule = ctx.rule
        dq = torch.zeros_like(q) if rule.only_scored else torch.empty_like(q)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        dq_by_key = _by_key_head(dq, len(k))
        queries = _dense(_by_key_head(q, len(k)) * rule.scale)
        gradients = _dense(_by_key_head(grad.transpose(0, 1), len(k)))
        steps = _steps(ctx.layout, k, v, rule, len(q) // len(k))
        for p, (block, keys, values) in zip(kept, steps, strict=True):
            block_queries, block_grad = _rows(queries, block), _rows(gradients, block)
            p = _probabilities(block_queries, keys, block, rule) if p is None else p
            ds = torch.bmm(block_grad, values.transpose(1, 2))
            ds = torch._softmax_backward_data(ds, p, -1, ds.dtype)
            if rule.softcap is not None:
                capped = torch.bmm(block_queries, keys.transpose(1, 2)).div_(rule.softcap).tanh_()
                ds.mul_(capped.square_().neg_().add_(1))
            _add_rows(dv, torch.bmm(p.transpose(1, 2), block_grad), block.key_rows)
            _add_rows(dk, torch.bmm(ds.transpose(1, 2), block_queries), block.key_rows)
            dq_by_key[:, block.queries] = torch.bmm(ds, keys).view(len(k), -1, *dq_by_key.shape[2:])
        return dq.mul_(rule.scale), dk, dv, None, None


def _steps(
    layout: Layout,
    k: Float[Tensor, "kv_heads T d"],
    v: Float[Tensor, "kv_heads T d"],
    rule: AttentionRule,
    heads_per_key: int,
) -> Iterator[tuple[_QueryBlock, Float[Tensor, "kv_heads n d"], Float[Tensor, "kv_heads n d"]]]:
    """All blocks of a row with their keys and values, which the next step overwrites."""
    buffered: Tree | None = None
    for rows, tree, blocks in _plan(layout, rule, _Kind(heads_per_key, k.dtype, k.device)):
        if tree is None:
            keys, values = k[:, rows], v[:, rows]
        else:
            if tree is not buffered:
                keys, values = _prompt_buffer(k, tree), _prompt_buffer(v, tree)
            own = slice(tree.prompt_length, tree.prompt_length + rows.stop - rows.start)
            keys[:, own], values[:, own] = k[:, rows], v[:, rows]
        buffered = tree
        for block in blocks:
            yield block, keys[:, block.keys], values[:, block.keys]


def _prompt_buffer(
    rows: Float[Tensor, "kv_heads T d"], tree: Tree
) -> Float[Tensor, "kv_heads longest d"]:
    """The rows of a prompt, and room for its longest completion behind it."""
    room = rows.new_empty(rows.shape[0], tree.longest, rows.shape[2])
    room[:, : tree.prompt_length] = rows[:, tree.start : tree.start + tree.prompt_length]
    return room


def _add_rows(
    total: Float[Tensor, "kv_heads T d"],
    gradient: Float[Tensor, "kv_heads n d"],
    key_rows: tuple[slice, ...],
) -> None:
    """Add the gradient of a block's keys or values where these are in the row."""
    lengths = [rows.stop - rows.start for rows in key_rows]
    for rows, part in zip(key_rows, torch.split(gradient, lengths, dim=1), strict=True):
        total[:, rows] += part


def _by_key_head(
    rows: Float[Tensor, "heads T d"], kv_heads: int
) -> Float[Tensor, "kv_heads T heads_per_key d"]:
    """A view by the key head that a token's queries share."""
    return rows.view(kv_heads, -1, *rows.shape[1:]).transpose(1, 2)


def _dense(
    rows: Float[Tensor, "kv_heads T heads_per_key d"],
) -> Float[Tensor, "kv_heads T heads_per_key d"]:
    """Copy, so that the queries of neighbouring tokens form one matrix; single ones already do."""
    return rows if rows.shape[2] == 1 else rows.contiguous()


def _rows(
    tokens: Float[Tensor, "kv_heads T heads_per_key d"], block: _QueryBlock
) -> Float[Tensor, "kv_heads n d"]:
    """The rows of a block's queries as one matrix per key head."""
    return tokens[:, block.queries].flatten(1, 2)


def _probabilities(
    queries: Float[Tensor, "kv_heads n d"],
    keys: Float[Tensor, "kv_heads keys d"],
    block: _QueryBlock,
    rule: AttentionRule,
) -> Float[Tensor, "kv_heads n keys"]:
    """Attention probabilities of a block."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    mask = block.mask
    if mask is None:
        count = block.queries.stop - block.queries.start
        kind = _Kind(scores.shape[1] // count, scores.dtype, scores.device)
        mask = _mask(count, scores.shape[-1], rule.window, kind)
    scores[..., scores.shape[-1] - mask.shape[1] :] += mask
    if scores.is_cpu:
        return torch._softmax(scores, -1, False, out=scores)
    return torch.softmax(scores, -1)


@lru_cache(maxsize=2 * QUERIES)
def _causal_mask(count: int, kind: _Kind) -> Float[Tensor, "n count"]:
    return _mask(count, count, None, kind)


def _mask(count: int, keys: int, window: int | None, kind: _Kind) -> Float[Tensor, "n keys"]:
    """-inf where a key is later than the query, or a window or more before it."""
    query = torch.arange(keys - count, keys, device=kind.device)[:, None]
    key = torch.arange(keys, device=kind.device)
    hidden = key > query
    return _additive(hidden if window is None else hidden | (key <= query - window), kind)


def _additive(hidden: Bool[Tensor, "queries keys"], kind: _Kind) -> Float[Tensor, "n keys"]:
    """-inf where a key is hidden, a row for each query; those of a token stand side by side."""
    hidden = hidden.to(kind.device).repeat_interleave(kind.heads_per_key, dim=0)
    return torch.zeros(hidden.shape, dtype=kind.dtype, device=kind.device).masked_fill_(
        hidden, -math.inf
    )
