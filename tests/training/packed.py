"""Shapes of packed rows: a prompt's length with those of its completions, tree after tree."""

from prefine.training.batches.packing import Tree
from prefine.training.forward.attention.blockwise import QUERIES

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
