"""Which tokens of a packed row a token attends to: its prompt, and its own past."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prefine.training.batches.packing import Layout


class AttentionRule(NamedTuple):
    """Rule that turns scores into probabilities: scale, window of positions in sight, and soft-cap.

    With `only_scored` nothing reads the output of a prompt's tokens but the last one; it need not
    be computed.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    only_scored: bool = False


def visible_ranges(trees: Layout, length: int, window: int | None = None) -> Int[Tensor, "3 T"]:
    """The two ranges of keys that each token sees, counted from the start of the first tree.

    They are `ranges[0]` to before `ranges[1]`, some of a completion's prompt or nothing, and
    `ranges[2]` up to the token itself. Padding behind the trees sees itself.
    """
    place = torch.arange(length, dtype=torch.int32)
    begin = trees[0].start
    ranges = torch.stack([torch.zeros_like(place), torch.zeros_like(place), place])
    for tree in trees:
        start, prompt_length = tree.start - begin, tree.prompt_length
        branches = ((a - begin, b - begin, prompt_length) for a, b in tree.branches)
        for first, stop, before in ((start, start + prompt_length, 0), *branches):
            text = slice(first, stop)
            ranges[0, text], ranges[1, text], ranges[2, text] = start, start + before, first
            if window is not None:
                nearest = place[text] - (window - 1)
                ranges[2, text] = nearest.clamp(min=first)
                # The window counts positions, and a completion's go on from the prompt's end,
                # wherever in the row it stands.
                ranges[0, text] = (nearest - first + start + before).clamp(min=start)
    return ranges


def visible(trees: Layout, window: int | None = None) -> Bool[Tensor, "T T"]:
    """The mask of some trees: true where the row's token sees the column's."""
    length = trees[-1].stop - trees[0].start
    first, stop, own = visible_ranges(trees, length, window)[:, :, None]
    key = torch.arange(length)
    seen: Tensor = ((key >= first) & (key < stop)) | ((key >= own) & (key <= key[:, None]))
    return seen
