"""The marks that a loss reads are found in the way that its option names."""

from functools import partial
from typing import Literal

import pytest
from step_gradients import EXAMPLES, Case, engine
from torch import Tensor

from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import PairLogps, declare
from prefine.losses.token_diff import difference_marks

read: list[float] = []


@declare(needs={"reference", "tokens", "differences"})
def marked(
    logps: PairLogps, *, differences: Literal["difflib", "levenshtein"] = "difflib"
) -> Tensor:
    """DPO that keeps the number of marks that it is given."""
    tokens = logps.require_tokens()
    assert tokens.chosen_marked is not None and tokens.rejected_marked is not None
    read.append(float(tokens.chosen_marked.sum() + tokens.rejected_marked.sum()))
    return dpo(logps)


@pytest.mark.parametrize(("way", "count"), [("difflib", 74), ("levenshtein", 76)])
def test_marks_are_found_as_the_option_says(
    way: Literal["difflib", "levenshtein"], count: int
) -> None:
    read.clear()
    engine(Case(partial(marked, differences=way)), 1000)
    assert set(read) == {count}
    marks = [
        difference_marks(*(text.scored for text in item.texts), differences=way)
        for item in EXAMPLES
    ]
    assert sum(sum(side) for both in marks for side in both) == count
