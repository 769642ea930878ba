"""The source `playground`: prompts of the embedded world, and good answers to them."""

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from prefine.data.layouts.protocol import SourceRow
from prefine.playground.world import FLAW_RATES, demonstrate, draw_prompts, parse


def playground(
    *,
    count: Annotated[int, Field(gt=0)] = 256,
    split: Literal["train", "test"] = "train",
    seed: Annotated[int, Field(ge=0)] = 0,
    answers: bool = False,
) -> Iterator[SourceRow]:
    """Yield prompts of the embedded world; train and test prompts never coincide.

    Args:
        count: How many distinct prompts; asking for more only appends.
        split: Which side of the split.
        seed: Of the drawing.
        answers: Give each a good answer, which has no flaw, for `labels`, and for prompts with the
            selector `reference_vs_sample`.
    """
    for number, text in enumerate(draw_prompts(count, split=split, seed=seed)):
        values: dict[str, Any] = {"prompt": text}
        if answers:
            rng = random.Random(f"playground answer {seed} {text}")
            perfect = demonstrate(parse(text), rng, flaw_rates=dict.fromkeys(FLAW_RATES, 0.0))
            values["completions"] = [{"text": perfect, "label": True}]
        yield SourceRow(f"playground {split} prompt {number}", values)
