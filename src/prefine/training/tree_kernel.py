"""Attention of packed trees as products of blocks: no mask over the row, no product above the causal diagonal.

A completion sees its prompt and its own past, so its keys are laid behind its prompt's in one buffer whose index is the
position. The queries of a prompt, and those of a completion, are then plain causal attention on that buffer, cut into
blocks of queries that each meet the keys up to their own end.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.training.tree import Layout, Tree

QUERIES = 128
"""Queries in a block: fewer waste less above the diagonal, more make better products."""
KEPT_KEYS = 512
"""Up to this many keys, a block's probabilities are kept for the backward pass; more are computed again."""


class Rule(NamedTuple):
    """How scores become probabilities: their scale, the positions in sight (None: all), and the soft-cap (None: no)."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class _Block(NamedTuple):
    """Queries `rows[0]:rows[1]` of the row, at positions up to `last`, on the keys `first:last` of the buffer."""

    rows: tuple[int, int]
    first: int
    last: int


class _Segment(NamedTuple):
    """A prompt or a completion: its place in the row, its first position, its blocks."""

    rows: tuple[int, int]
    position: int
    blocks: tuple[_Block, ...]


def _segments(tree: Tree, window: int | None) -> Iterator[_Segment]:
    """The prompt, then the completions that have inputs."""
    spans = [(tree.start, tree.start + tree.prompt, 0), *((*branch, tree.prompt) for branch in tree.branches)]
    for start, stop, position in spans:
        blocks = []
        for a in range(start, stop, QUERIES):
            b = min(a + QUERIES, stop)
            begin, end = position + a - start, position + b - start
            blocks.append(_Block((a, b), 0 if window is None else max(0, begin - window + 1), end))
        if blocks:
            yield _Segment((start, stop), position, tuple(blocks))


class TreeAttention(torch.autograd.Function):
    """softmax(scale * q k^T) v, every completion on its prompt and its own past."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Float[Tensor, "heads T d"],
        k: Float[Tensor, "kv_heads T d"],
        v: Float[Tensor, "kv_heads T d"],
        layout: Layout,
        rule: Rule,
    ) -> Float[Tensor, "T heads d"]:
        """Attention of one row; query heads may be a multiple of the key heads.

        Args:
            ctx: Torch's.
            q: Queries, positions already turned in.
            k: Keys.
            v: Values.
            layout: The trees that fill the row.
            rule: Scale, window and soft-cap.
        """
        heads, length, _ = q.shape
        out = q.new_empty(length, heads, v.shape[-1])
        kept: list[Tensor | None] = []
        needed = any(ctx.needs_input_grad)
        for tree in layout:
            keys, values = _buffer(k, tree), _buffer(v, tree)
            for segment in _segments(tree, rule.window):
                _lay(keys, k, segment)
                _lay(values, v, segment)
                for block in segment.blocks:
                    p = _probabilities(_queries(q, block, k.shape[0], rule.scale), keys, block, rule)
                    mixed = torch.bmm(p, values[:, block.first : block.last])
                    out[slice(*block.rows)] = mixed.view(heads, -1, mixed.shape[-1]).transpose(0, 1)
                    keep = needed and rule.softcap is None and block.last - block.first <= KEPT_KEYS
                    kept.append(p if keep else None)
        ctx.save_for_backward(q, k, v)
        ctx.kept, ctx.layout, ctx.rule = kept, layout, rule
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The three gradients, block by block."""
        q, k, v = ctx.saved_tensors
        rule: Rule = ctx.rule
        groups = k.shape[0]
        # Every token is a query of exactly one block, and a key of exactly one segment.
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        number = 0
        for tree in ctx.layout:
            keys, values = _buffer(k, tree), _buffer(v, tree)
            d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
            prompt = slice(tree.start, tree.start + tree.prompt)
            for segment in _segments(tree, rule.window):
                _lay(keys, k, segment)
                _lay(values, v, segment)
                own = slice(segment.position, segment.position + segment.rows[1] - segment.rows[0])
                if segment.position:
                    d_keys[:, own] = 0
                    d_values[:, own] = 0
                for block in segment.blocks:
                    seen = slice(block.first, block.last)
                    queries = _queries(q, block, groups, rule.scale)
                    p = ctx.kept[number]
                    p = _probabilities(queries, keys, block, rule) if p is None else p
                    ctx.kept[number] = None
                    number += 1
                    g = grad[slice(*block.rows)].transpose(0, 1).reshape(groups, -1, grad.shape[-1])
                    d_values[:, seen] += torch.bmm(p.transpose(1, 2), g)
                    ds = torch.bmm(g, values[:, seen].transpose(1, 2))
                    ds = torch._softmax_backward_data(ds, p, -1, ds.dtype)
                    if rule.softcap is not None:
                        capped = torch.bmm(queries, keys[:, seen].transpose(1, 2)).div_(rule.softcap).tanh_()
                        ds.mul_(capped.square_().neg_().add_(1))
                    d_keys[:, seen] += torch.bmm(ds.transpose(1, 2), queries)
                    d_block = torch.bmm(ds, keys[:, seen]).mul_(rule.scale)
                    dq[:, slice(*block.rows)] = d_block.view(q.shape[0], -1, q.shape[-1])
                if segment.position:
                    dk[:, slice(*segment.rows)] = d_keys[:, own]
                    dv[:, slice(*segment.rows)] = d_values[:, own]
            dk[:, prompt] = d_keys[:, : tree.prompt]
            dv[:, prompt] = d_values[:, : tree.prompt]
        return dq, dk, dv, None, None


def _buffer(rows: Tensor, tree: Tree) -> Tensor:
    """Room for the prompt with its longest completion, by position."""
    return rows.new_empty(rows.shape[0], tree.longest, rows.shape[2])


def _lay(buffer: Tensor, rows: Tensor, segment: _Segment) -> None:
    """Put a segment at its positions; one completion takes the place of the one before."""
    start, stop = segment.rows
    buffer[:, segment.position : segment.position + stop - start] = rows[:, start:stop]


def _queries(q: Tensor, block: _Block, groups: int, scale: float) -> Tensor:
    """The block's scaled queries [kv_heads, queries of all heads that share these keys, d]."""
    return (q[:, slice(*block.rows)] * scale).reshape(groups, -1, q.shape[-1])


def _probabilities(queries: Tensor, keys: Tensor, block: _Block, rule: Rule) -> Tensor:
    """Attention probabilities [kv_heads, queries, keys]."""
    scores = torch.bmm(queries, keys[:, block.first : block.last].transpose(1, 2))
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    count, width = block.rows[1] - block.rows[0], block.last - block.first
    by_head = scores.view(-1, count, width)
    if rule.window is not None and width > rule.window:
        by_head += _banded(count, width, rule.window, scores)
    elif count > 1:
        by_head[:, :, width - count :] += _causal(count, scores)
    return torch._softmax(scores, -1, False, out=scores) if scores.is_cpu else torch.softmax(scores, -1)


def _causal(count: int, like: Tensor) -> Tensor:
    """-inf where a query would see a later key."""
    return torch.full((count, count), -math.inf, dtype=like.dtype, device=like.device).triu_(1)


def _banded(count: int, width: int, window: int, like: Tensor) -> Tensor:
    """-inf where a key is later than the query, or `window` positions or more before it."""
    query = torch.arange(width - count, width, device=like.device)[:, None]
    key = torch.arange(width, device=like.device)
    hidden = (key > query) | (key <= query - window)
    return torch.zeros(count, width, dtype=like.dtype, device=like.device).masked_fill_(hidden, -math.inf)
