"""Attention of packed trees as products of blocks: no mask over the row, no product above the causal diagonal.

A completion sees its prompt and its own past, so its keys are laid behind its prompt's in one buffer whose index is the
position. The queries of a prompt, and those of a completion, are then plain causal attention on that buffer, cut into
blocks of queries that each meet the keys up to their own end. Short trees side by side are one block under a mask: a
few idle products cost less than many calls.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefine.training.tree import Layout, Tree

QUERIES = 128
"""Queries in a block, and tokens of trees that are one: fewer waste less, more make better products and fewer calls."""
KEPT_KEYS = 512
"""Up to this many keys, a block's probabilities are kept for the backward pass; more are computed again."""


class Rule(NamedTuple):
    """How scores become probabilities: their scale, the positions in sight (None: all), and the soft-cap (None: no)."""

    scale: float
    window: int | None = None
    softcap: float | None = None


def visible(trees: Layout, window: int | None = None) -> Bool[Tensor, "T T"]:
    """Who sees whom in a row: true where the row's token sees the column's."""
    begin, length = trees[0].start, trees[-1].stop - trees[0].start
    seen = torch.zeros(length, length, dtype=torch.bool)
    position = torch.zeros(length, dtype=torch.long)
    for tree in trees:
        start, prompt = tree.start - begin, tree.prompt
        own = [(start, start + prompt, 0), *((a - begin, b - begin, prompt) for a, b in tree.branches)]
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


class _Block(NamedTuple):
    """Some queries: which they are, the keys of the buffer that they meet, and where these are in the row.

    `banded` if the window hides some of the keys, else only the causal diagonal does.
    """

    rows: slice
    queries: int
    seen: slice
    places: tuple[slice, ...]
    banded: bool


class _Segment(NamedTuple):
    """A prompt or a completion: its place in the row, that in the buffer, its blocks."""

    rows: slice
    own: slice
    blocks: tuple[_Block, ...]


class _Bundle(NamedTuple):
    """Short trees that are one block, moved to 0, or one longer tree in segments."""

    rows: slice
    trees: Layout
    segments: tuple[_Segment, ...]


@lru_cache(maxsize=8)
def _plan(layout: Layout, window: int | None) -> tuple[_Bundle, ...]:
    """What is done for a row; the same for all layers with this window, and both directions."""
    plan = []
    for trees in _bundles(layout):
        start, stop = trees[0].start, trees[-1].stop
        short = stop - start <= QUERIES
        moved = tuple(_moved(tree, start) for tree in trees) if short else trees
        plan.append(_Bundle(slice(start, stop), moved, () if short else tuple(_segments(trees[0], window))))
    return tuple(plan)


def _segments(tree: Tree, window: int | None) -> Iterator[_Segment]:
    """The prompt, then the completions that have inputs."""
    spans = [(tree.start, tree.start + tree.prompt, 0), *((*branch, tree.prompt) for branch in tree.branches)]
    for start, stop, position in spans:
        blocks = []
        for a in range(start, stop, QUERIES):
            b = min(a + QUERIES, stop)
            begin, end = position + a - start, position + b - start
            first = 0 if window is None else max(0, begin - window + 1)
            prompt = slice(tree.start + first, tree.start + position)
            late = slice(start + max(0, first - position), b)
            places = tuple(place for place in (prompt, late) if place.stop > place.start)
            banded = window is not None and end - first > window
            blocks.append(_Block(slice(a, b), b - a, slice(first, end), places, banded))
        if blocks:
            yield _Segment(slice(start, stop), slice(position, position + stop - start), tuple(blocks))


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
        out = q.new_empty(q.shape[1], q.shape[0], v.shape[-1])
        kept: list[Tensor | None] = []
        keeping = any(ctx.needs_input_grad) and rule.softcap is None
        for step in _steps(layout, k, v, rule):
            p = _probabilities(_queries(q, step, k.shape[0], rule), step, rule)
            mixed = torch.bmm(p, step.values)
            out[step.rows] = mixed.view(q.shape[0], -1, mixed.shape[-1]).transpose(0, 1)
            kept.append(p if keeping and p.shape[-1] <= KEPT_KEYS else None)
        # All by torch's own way, or gradient checkpointing would keep what it is there to drop.
        ctx.save_for_backward(q, k, v, *kept)
        ctx.layout, ctx.rule = layout, rule
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The three gradients, block by block."""
        q, k, v, *kept = ctx.saved_tensors
        rule: Rule = ctx.rule
        # Every token is a query of exactly one block; as a key, a prompt's token is met by many.
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for number, step in enumerate(_steps(ctx.layout, k, v, rule)):
            queries = _queries(q, step, k.shape[0], rule)
            p = kept[number]
            p = _probabilities(queries, step, rule) if p is None else p
            g = grad[step.rows].transpose(0, 1).reshape(k.shape[0], -1, grad.shape[-1])
            ds = torch.bmm(g, step.values.transpose(1, 2))
            ds = torch._softmax_backward_data(ds, p, -1, ds.dtype)
            if rule.softcap is not None:
                capped = torch.bmm(queries, step.keys.transpose(1, 2)).div_(rule.softcap).tanh_()
                ds.mul_(capped.square_().neg_().add_(1))
            _give_back(dv, torch.bmm(p.transpose(1, 2), g), step.places)
            _give_back(dk, torch.bmm(ds.transpose(1, 2), queries), step.places)
            dq[:, step.rows] = torch.bmm(ds, step.keys).mul_(rule.scale).view(q.shape[0], -1, q.shape[-1])
        return dq, dk, dv, None, None


class _Step(NamedTuple):
    """A block with what it meets: its keys and values [kv_heads, n, d], their places in the row, and who is hidden.

    `hidden` is added to the scores' last columns, as many as it has.
    """

    rows: slice
    keys: Tensor
    values: Tensor
    places: tuple[slice, ...]
    hidden: Tensor


def _steps(layout: Layout, k: Tensor, v: Tensor, rule: Rule) -> Iterator[_Step]:
    """All blocks of a row; a step's keys and values hold until the next one is asked for."""
    for rows, trees, segments in _plan(layout, rule.window):
        if not segments:
            yield _Step(rows, k[:, rows], v[:, rows], (rows,), _unseen(trees, rule.window, k.dtype, k.device))
            continue
        keys, values = _buffer(k, trees[0]), _buffer(v, trees[0])
        for segment in segments:
            keys[:, segment.own], values[:, segment.own] = k[:, segment.rows], v[:, segment.rows]
            for block in segment.blocks:
                seen = block.seen
                if block.banded and rule.window is not None:
                    hidden = _banded(block.queries, seen.stop - seen.start, rule.window, k)
                else:
                    hidden = _causal(block.queries, k.dtype, k.device)
                yield _Step(block.rows, keys[:, seen], values[:, seen], block.places, hidden)


def _give_back(to: Tensor, gradient: Tensor, places: tuple[slice, ...]) -> None:
    """Add the gradient of a block's keys or values at their places in the row."""
    start = 0
    for place in places:
        stop = start + place.stop - place.start
        to[:, place] += gradient[:, start:stop]
        start = stop


def _buffer(rows: Tensor, tree: Tree) -> Tensor:
    """Room for the prompt with its longest completion, by position."""
    return rows.new_empty(rows.shape[0], tree.longest, rows.shape[2])


def _queries(q: Tensor, step: _Step, groups: int, rule: Rule) -> Tensor:
    """The block's scaled queries [kv_heads, queries of all heads that share these keys, d]."""
    return (q[:, step.rows] * rule.scale).reshape(groups, -1, q.shape[-1])


def _probabilities(queries: Tensor, step: _Step, rule: Rule) -> Tensor:
    """Attention probabilities [kv_heads, queries, keys]."""
    scores = torch.bmm(queries, step.keys.transpose(1, 2))
    if rule.softcap is not None:
        scores.div_(rule.softcap).tanh_().mul_(rule.softcap)
    count, width = step.hidden.shape
    scores.view(-1, count, scores.shape[-1])[:, :, scores.shape[-1] - width :] += step.hidden
    return torch._softmax(scores, -1, False, out=scores) if scores.is_cpu else torch.softmax(scores, -1)


def _moved(tree: Tree, by: int) -> Tree:
    """The same tree `by` places to the left."""
    return Tree(tree.start - by, tree.prompt, tuple((a - by, b - by) for a, b in tree.branches))


@lru_cache(maxsize=64)
def _unseen(trees: Layout, window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf where a token does not see another one; the same for all layers and both directions."""
    hidden = ~visible(trees, window).to(device)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -math.inf)


@lru_cache(maxsize=2 * QUERIES)
def _causal(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf where a query would see a later key."""
    return torch.full((count, count), -math.inf, dtype=dtype, device=device).triu_(1)


def _banded(count: int, width: int, window: int, like: Tensor) -> Tensor:
    """-inf where a key is later than the query, or `window` positions or more before it."""
    query = torch.arange(width - count, width, device=like.device)[:, None]
    key = torch.arange(width, device=like.device)
    hidden = (key > query) | (key <= query - window)
    return torch.zeros(count, width, dtype=like.dtype, device=like.device).masked_fill_(hidden, -math.inf)
