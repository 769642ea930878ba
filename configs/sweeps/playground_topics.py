"""Prompts of the playground in two sources: its topics, cut into two halves."""

from collections.abc import Iterator
from typing import Literal

from prefine.playground.vocabulary import TOPICS
from prefine.playground.world import draw_prompts, parse

FIRST_HALF = frozenset(TOPICS[: len(TOPICS) // 2])


def prompts(*, count: int, split: Literal["train", "test"] = "train") -> Iterator[dict[str, str]]:
    """Yield prompts with the half of the topics that theirs is in.

    Args:
        count: How many prompts.
        split: Which side of the playground's split.
    """
    for text in draw_prompts(count, split=split, seed=0):
        half = "first" if parse(text).topic in FIRST_HALF else "second"
        yield {"prompt": text, "source": f"{half} half of the topics"}
