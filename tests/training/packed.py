"""Shapes of packed rows: a prompt's length with those of its completions, tree after tree; and
attention over them by one dense mask.
"""

import torch
from torch import Tensor

from prefine.training.batches.packing import Tree
from prefine.training.forward.attention.blockwise import QUERIES
from prefine.training.forward.attention.visibility import AttentionRule

SHAPES: dict[str, list[tuple[int, tuple[int, ...]]]] = {
    "one-token-everything": [(1, (0, 1)), (1, (1, 1))],
    "mixed": [(37, (5, 0, 30)), (1, (1, 2)), (20, (50,)), (64, (16, 16, 32))],
    "long": [(2 * QUERIES + 3, (QUERIES, QUERIES + 1, 7))],
    "full": [(300, (200, 33)), (150, (250, 77))],
    "list-of-32": [(9, (4,) * 32)],
    "short-and-long": [
        (9, (4, 5)),
        (30, (60, 2)),
        (QUERIES, (50, 90)),
        (3, (2,)),
        (QUERIES - 4, (2, 3)),
    ],
    "no-completion-input": [(5, (0, 0))],
}


def layout(shape: list[tuple[int, tuple[int, ...]]]) -> tuple[tuple[Tree, ...], int]:
    """The trees, and how many tokens they are."""
    at, trees = 0, []
    for prompt, completions in shape:
        start, at = at, at + prompt
        branches = []
        for length in completions:
            branches.append((at, at + length))
            at += length
        trees.append(Tree(start, prompt, tuple(branches)))
    return tuple(trees), at


def dense_mask(trees: tuple[Tree, ...], window: int | None = None) -> Tensor:
    """True where the row's token sees the column's [T, T], text by text."""
    length = trees[-1].stop
    seen = torch.zeros(length, length, dtype=torch.bool)
    position = torch.zeros(length, dtype=torch.long)
    for tree in trees:
        texts = [(tree.start, tree.start + tree.prompt_length, 0)]
        texts += [(start, stop, tree.prompt_length) for start, stop in tree.branches]
        for start, stop, before in texts:
            seen[start:stop, start:stop] = torch.ones(stop - start, stop - start).tril() == 1
            seen[start:stop, tree.start : tree.start + before] = True
            position[start:stop] = torch.arange(before, before + stop - start)
    return seen if window is None else seen & (position[:, None] - position < window)


def dense_tree_attention(
    query: Tensor, key: Tensor, value: Tensor, trees: tuple[Tree, ...], rule: AttentionRule
) -> Tensor:
    """The attention output by one mask over the whole row: quadratic."""
    heads = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(heads, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * rule.scale
    if rule.softcap is not None:
        scores = rule.softcap * torch.tanh(scores / rule.softcap)
    scores = scores.masked_fill(~dense_mask(trees, rule.window).to(scores.device), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous()
