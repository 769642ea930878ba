"""How full the rows of a training were."""

from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch

from prefine.errors import Interrupted
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.kto_pair import kto_pair
from prefine.training.batches.packing import pack, pad
from prefine.training.batches.row_fill import RowFill, needed_positions
from prefine.training.logging.figures import TrainSummary
from prefine.training.loop import train
from prefine.training.relations.pairs import TokenizedPair

PAIRS = [
    TokenizedPair("a", (1, 2, 3), (4, 5), (6, 7, 8)),
    TokenizedPair("b", (1, 2, 3), (4, 5), (9,)),
    TokenizedPair("c", (1,), (4,), (5, 6, 7, 8, 9, 10)),
]


def _train(folder: Path, **options: Any) -> TrainSummary:
    settings = options.pop("settings", {})
    values: dict[str, Any] = {
        "loss": dpo,
        "regularizer": None,
        "out_dir": folder,
        "run_key": "k",
        **options,
    }
    return train(
        tiny.model(dtype=torch.float32), tiny.examples(), tiny.config(**settings), **values
    )


def test_what_is_needed_is_each_prompt_and_each_completion_once() -> None:
    # Prompts 3 and 1; completions without their last tokens: 1 + 2 + 0, and 0 + 5.
    assert needed_positions(PAIRS, range(3)) == 3 + 3 + 1 + 5


def test_packed_rows_are_full_and_padded_ones_are_not() -> None:
    packed, padded = RowFill(), RowFill()
    assert packed.share is None and packed.notes() == ()
    packed.add(pack(PAIRS, range(3), 50), needed=12)
    assert packed.share == 1
    assert packed.notes() == ("100 % of the 12 positions in the rows were needed",)
    # All in one pass: 5 completions, as wide as the longest prompt with its completion.
    padded.add(pad(PAIRS, range(3), 50), needed=12)
    assert padded.share == pytest.approx(12 / 30)
    assert "40 % of the 30 positions" in padded.notes()[0] and "padding" in padded.notes()[0]


def test_a_prompt_in_two_rows_is_computed_twice() -> None:
    fill = RowFill()
    fill.add(pack(PAIRS, range(3), 5), needed=12)
    assert fill.share == pytest.approx(12 / (12 + 3 + 1))


def test_a_training_reports_it_and_a_resumed_one_the_same(tmp_path: Path) -> None:
    assert _train(tmp_path / "packed").row_fill == 1
    assert _train(tmp_path / "mismatched", loss=kto_pair).row_fill == 1
    off = {"settings": {"sharing": "off"}}
    whole = _train(tmp_path / "off", **off)
    assert whole.row_fill is not None and 0.2 < whole.row_fill < 1
    assert any("positions in the rows were needed" in note for note in whole.notes)
    seen: list[Any] = []
    with pytest.raises(Interrupted):
        _train(tmp_path / "cut", on_step=seen.append, should_stop=lambda: len(seen) >= 4, **off)
    assert _train(tmp_path / "cut", **off).row_fill == whole.row_fill
