"""Attention of packed trees as products of blocks: no mask over the row, no product above the causal diagonal.

A completion sees its prompt and its own past. The first one lies behind its prompt, as it is read;
the keys of every other one are laid behind its prompt's in a buffer whose index is the position.
All are then plain causal attention, cut into blocks of queries that each meet the keys up to their
own end. Short trees side by side are one block under a
mask: a few idle products cost less than many calls.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefine.training.batches.packing import Layout, Tree

QUERIES = 128
"""Queries in a block, and tokens of trees that are one: fewer waste less, more make better products and fewer calls."""
KEPT_KEYS = 512
"""Up to this many keys, a block's probabilities are kept for the backward pass; more are computed again."""


class AttentionRule(NamedTuple):
    """How scores become probabilities: their scale, the positions in sight (None: all), and the soft-cap (None: no).

    `only_scored` if nothing reads what prompts are given but by their last token: these values need
    not be there.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    only_scored: bool = False


def visible(trees: Layout, window: int | None = None) -> Bool[Tensor, "T T"]:
    """Who sees whom in a row: true where the row's token sees the column's."""
    begin, length = trees[0].start, trees[-1].stop - trees[0].start
    seen = torch.zeros(length, length, dtype=torch.bool)
    position = torch.zeros(length, dtype=torch.long)
    for tree in trees:
        start, prompt = tree.start - begin, tree.prompt
        own = [
            (start, start + prompt, 0),
            *((a - begin, b - begin, prompt) for a, b in tree.branches),
        ]
        for a, b, before in own:
            seen[a:b, a:b] = torch.ones(b - a, b - a, dtype=torch.bool).tril()
            seen[a:b, start : start + before] = True
            position[a:b] = torch.arange(before, before + b - a)
    return seen if window is None else seen & (position[:, None] - position < window)


def _bundles(layout: Layout) -> Iterator[Layout]:
    """Neighbouring trees together while they have at most `QUERIES` tokens; a longer tree alone."""
    start = 0
    for at, tree in enumerate(layout):
        if at > start and tree.stop - layout[start].start > QUERIES:
            yield layout[start:at]
            start = at
    yield layout[start:]


class _QueryBlock(NamedTuple):
    """Some queries: which they are, the keys that they meet, by position, and where these are in the row.

    `hidden` is added to the scores' last columns, as many as it has; None where the window hides
    some of the keys.
    """

    rows: slice
    seen: slice
    places: tuple[slice, ...]
    hidden: Tensor | None


class _Segment(NamedTuple):
    """Tokens that are plain causal attention, and their blocks.

    A prompt and its first completion lie in the row as they are read, and so do short trees, all in
    one block. For each other completion, `own` is its place in the buffer behind its prompt.
    """

    rows: slice
    own: slice | None
    blocks: tuple[_QueryBlock, ...]


class _Bundle(NamedTuple):
    """A tree, or several short ones that are one segment."""

    rows: slice
    tree: Tree
    segments: tuple[_Segment, ...]


class _Kind(NamedTuple):
    """What masks are like: queries side by side that share a key, dtype and device."""

    shared: int
    dtype: torch.dtype
    device: torch.device


@lru_cache(maxsize=16)
def _plan(layout: Layout, rule: AttentionRule, kind: _Kind) -> tuple[_Bundle, ...]:
    """What is done for a row; the same for all layers with this window, and both directions."""
    plan = []
    for trees in _bundles(layout):
        rows = slice(trees[0].start, trees[-1].stop)
        if rows.stop - rows.start <= QUERIES:
            hidden = _additive(~visible(trees, rule.window), kind)
            alone = _QueryBlock(rows, slice(0, rows.stop - rows.start), (rows,), hidden)
            segments: tuple[_Segment, ...] = (_Segment(rows, None, (alone,)),)
        else:
            segments = tuple(_segments(trees[0], rule, kind))
        plan.append(_Bundle(rows, trees[0], segments))
    return tuple(plan)


def _segments(tree: Tree, rule: AttentionRule, kind: _Kind) -> Iterator[_Segment]:
    """The prompt with its first completion, then the other completions that have inputs."""
    ends = [stop for _, stop in tree.branches] or [tree.start + tree.prompt]
    # Nothing reads what a prompt's tokens but the last one are given by the last layer.
    asked = tree.prompt - 1 if rule.only_scored else 0
    first = tuple(
        _QueryBlock(_shifted(queries, tree.start), seen, (_shifted(seen, tree.start),), hidden)
        for queries, seen, hidden in _blocks(asked, ends[0] - tree.start, rule.window, kind)
    )
    yield _Segment(slice(tree.start, ends[0]), None, first)
    for start, stop in tree.branches[1:]:
        to_row = start - tree.prompt
        blocks = []
        for queries, seen, hidden in _blocks(
            tree.prompt, tree.prompt + stop - start, rule.window, kind
        ):
            prompt = slice(tree.start + seen.start, tree.start + tree.prompt)
            late = slice(to_row + max(seen.start, tree.prompt), to_row + seen.stop)
            places = tuple(place for place in (prompt, late) if place.stop > place.start)
            blocks.append(_QueryBlock(_shifted(queries, to_row), seen, places, hidden))
        if blocks:
            yield _Segment(
                slice(start, stop), slice(tree.prompt, tree.prompt + stop - start), tuple(blocks)
            )


def _blocks(
    start: int, stop: int, window: int | None, kind: _Kind
) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """The queries and the keys in sight of each block, by position, and what is hidden of these.

    Blocks are about equally long: a long and a short one would waste more above the diagonal, and
    products like multiples of 16.
    """
    length = stop - start
    if length == 0:
        return
    count = math.ceil(length / QUERIES)
    size = 16 * math.ceil(length / (16 * count))
    for begin in range(start, stop, size):
        end = min(begin + size, stop)
        first = 0 if window is None else max(0, begin - window + 1)
        banded = window is not None and end - first > window
        yield slice(begin, end), slice(first, end), None if banded else _causal(end - begin, kind)


def _shifted(place: slice, by: int) -> slice:
    return slice(place.start + by, place.stop + by)


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
        """Attention of one row; query heads may be a multiple of the key heads.

        Args:
            ctx: Torch's.
            q: Queries, positions already turned in.
            k: Keys.
            v: Values.
            layout: The trees that fill the row.
            rule: Scale, window and soft-cap, and whose values are asked for; those of others are 0.
        """
        heads, tokens, _ = q.shape
        make = q.new_zeros if rule.only_scored else q.new_empty
        out = make(tokens, heads, v.shape[-1])
        to = _grouped(out.transpose(0, 1), len(k))
        queries = _dense(_grouped(q, len(k)) * rule.scale)
        kept: list[Tensor | None] = []
        keeping = any(ctx.needs_input_grad) and rule.softcap is None
        for block, keys, values in _steps(layout, k, v, rule, heads // len(k)):
            p = _probabilities(_rows(queries, block), keys, block, rule)
            to[:, block.rows] = torch.bmm(p, values).view(len(k), -1, heads // len(k), v.shape[-1])
            kept.append(p if keeping and p.shape[-1] <= KEPT_KEYS else None)
        # All by torch's own way, or gradient checkpointing would keep what it is there to drop.
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.rule = layout, rule
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The three gradients, block by block."""
        q, k, v, *kept = ctx.saved_tensors
        rule: AttentionRule = ctx.rule
        # Every token is a query of at most one block; as a key, a prompt's token is met by many.
        dq = torch.zeros_like(q) if rule.only_scored else torch.empty_like(q)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        to = _grouped(dq, len(k))
        queries = _dense(_grouped(q, len(k)) * rule.scale)
        gradients = _dense(_grouped(grad.transpose(0, 1), len(k)))
        steps = _steps(ctx.layout, k, v, rule, len(q) // len(k))
        for p, (block, keys, values) in zip(kept, steps, strict=True):
            asked, g = _rows(queries, block), _rows(gradients, block)
            p = _probabilities(asked, keys, block, rule) if p is None else p
            ds = torch.bmm(g, values.transpose(1, 2))
            ds = torch._softmax_backward_data(ds, p, -1, ds.dtype)
            if rule.softcap is not None:
                capped = torch.bmm(asked, keys.transpose(1, 2)).div_(rule.softcap).tanh_()
                ds.mul_(capped.square_().neg_().add_(1))
            _give_back(dv, torch.bmm(p.transpose(1, 2), g), block.places)
            _give_back(dk, torch.bmm(ds.transpose(1, 2), asked), block.places)
            to[:, block.rows] = torch.bmm(ds, keys).view(len(k), -1, *to.shape[2:])
        return dq.mul_(rule.scale), dk, dv, None, None


def _steps(
    layout: Layout, k: Tensor, v: Tensor, rule: AttentionRule, shared: int
) -> Iterator[tuple[_QueryBlock, Tensor, Tensor]]:
    """All blocks of a row with their keys and values [kv_heads, n, d], which hold until the next one is asked for."""
    for rows, tree, segments in _plan(layout, rule, _Kind(shared, k.dtype, k.device)):
        keys, values = k[:, rows], v[:, rows]
        for number, segment in enumerate(segments):
            if number == 1:
                keys, values = _buffer(k, tree), _buffer(v, tree)
            if segment.own is not None:
                keys[:, segment.own], values[:, segment.own] = (
                    k[:, segment.rows],
                    v[:, segment.rows],
                )
            for block in segment.blocks:
                yield block, keys[:, block.seen], values[:, block.seen]


def _give_back(to: Tensor, gradient: Tensor, places: tuple[slice, ...]) -> None:
    """Add the gradient of a block's keys or values at their places in the row."""
    start = 0
    for place in places:
        stop = start + place.stop - place.start
        to[:, place] += gradient[:, start:stop]
        start = stop


def _buffer(rows: Tensor, tree: Tree) -> Tensor:
    """The prompt, and room for its longest completion behind it."""
    room = rows.new_empty(rows.shape[0], tree.longest, rows.shape[2])
    room[:, : tree.prompt] = rows[:, tree.start : tree.start + tree.prompt]
    return room


def _grouped(rows: Tensor, groups: int) -> Float[Tensor, "kv_heads T shared d"]:
    """A view [heads, T, d] by the key head that a token's queries share."""
    return rows.view(groups, -1, *rows.shape[1:]).transpose(1, 2)


def _dense(rows: Float[Tensor, "kv_heads T shared d"]) -> Float[Tensor, "kv_heads T shared d"]:
    """The same so that the queries of neighbouring tokens are one matrix; with one query to a key they are already."""
    return rows if rows.shape[2] == 1 else rows.contiguous()


def _rows(
    tokens: Float[Tensor, "kv_heads T shared d"], block: _QueryBlock
) -> Float[Tensor, "kv_heads n d"]:
    """What belongs to a block's queries."""
    return tokens[:, block.rows].flatten(1, 2)


def _probabilities(
    queries: Tensor, keys: Tensor, block: _QueryBlock, rule: AttentionRule
) -> Float[Tensor, "kv_heads n keys"]:
    """Attention probabilities of a block."""
    scores = torch.bmm(queries, keys.transpose(1, 2))
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    hidden = block.hidden
    if hidden is None:
        count = block.rows.stop - block.rows.start
        hidden = _banded(
            count,
            rule,
            _Kind(scores.shape[1] // count, scores.dtype, scores.device),
            scores.shape[-1],
        )
    scores[..., scores.shape[-1] - hidden.shape[1] :] += hidden
    return (
        torch._softmax(scores, -1, False, out=scores)
        if scores.is_cpu
        else torch.softmax(scores, -1)
    )


@lru_cache(maxsize=2 * QUERIES)
def _causal(count: int, kind: _Kind) -> Tensor:
    """-inf where a query would see a later key."""
    return _additive(torch.ones(count, count, dtype=torch.bool).triu_(1), kind)


def _banded(count: int, rule: AttentionRule, kind: _Kind, width: int) -> Tensor:
    """-inf where a key is later than the query, or a window or more before it."""
    assert rule.window is not None
    query = torch.arange(width - count, width, device=kind.device)[:, None]
    key = torch.arange(width, device=kind.device)
    return _additive((key > query) | (key <= query - rule.window), kind)


def _additive(hidden: Bool[Tensor, "n keys"], kind: _Kind) -> Tensor:
    """-inf where a key is hidden, a row for each query; those of a token stand side by side."""
    hidden = hidden.to(kind.device).repeat_interleave(kind.shared, dim=0)
    return torch.zeros(hidden.shape, dtype=kind.dtype, device=kind.device).masked_fill_(
        hidden, -math.inf
    )
