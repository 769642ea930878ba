"""What gives the steps their items: the shuffled data set, and a source with a state of its own."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from step_sources import Replay

from prefine.errors import Interrupted, LimitError
from prefine.losses import dpo
from prefine.training import loop
from prefine.training.loop import train
from prefine.training.memory import OutOfMemory
from prefine.training.relations.pair_rows import StepRow

SETTINGS: dict[str, Any] = {"checkpoint_every": 1}


def _train(folder: Path, **options: Any) -> tuple[torch.nn.Module, Any]:
    model = tiny.model(dtype=torch.float32)
    given = {"step_source": partial(Replay, fresh=2), "loss": dpo, **options}
    summary = train(
        model,
        tiny.examples(),
        tiny.config(**SETTINGS),
        regularizer=None,
        out_dir=folder,
        run_key="key",
        **given,
    )
    return model, summary


def _rows(folder: Path) -> list[StepRow]:
    return [StepRow.model_validate_json(line) for line in tiny.log(folder).splitlines()]


def test_a_source_decides_how_many_steps_there_are_and_what_is_in_them(tmp_path: Path) -> None:
    sources: list[Replay] = []

    def kept(*given: Any) -> Replay:
        sources.append(Replay(*given, fresh=2, steps=4))
        return sources[0]

    _, summary = _train(tmp_path, step_source=kept)
    rows = _rows(tmp_path)
    assert (summary.steps, summary.planned_steps) == (4, 4)
    # The first step finds an empty buffer.
    assert [row.pairs for row in rows] == [2, 3, 3, 3]
    assert [len(ids) for ids in sources[0].asked] == [2, 3, 3, 3]
    assert summary.items == len(set(sources[0].state_dict()["buffer"]))


def test_values_under_the_initial_policy_stay_those_of_step_zero(tmp_path: Path) -> None:
    """The source asks for them when the policy has moved; a frozen copy answers."""
    _train(tmp_path, step_source=partial(Replay, fresh=3, steps=6))
    first, *_, last = _rows(tmp_path)
    assert abs(first.margin) < 1e-5 and abs(first.fall) < 1e-5
    assert last.margin > 0.1


@pytest.mark.parametrize("stops", [(1,), (3, 5), (2, 3, 4)])
def test_a_source_with_a_state_goes_on_where_it_was(tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole, _ = _train(tmp_path / "whole")
    rows: list[Any] = []
    for stop in (*stops, 99):

        def should_stop(stop: int = stop) -> bool:
            return len(rows) >= stop

        try:
            parts, _ = _train(tmp_path / "parts", on_step=rows.append, should_stop=should_stop)
        except Interrupted:
            continue
    for name in ("train_log.jsonl", "train_final.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name, weight in tiny.weights(whole).items():
        assert torch.equal(weight, tiny.weights(parts)[name])
    state = json.loads((tmp_path / "parts/checkpoints/step-00006/state.json").read_text())
    assert len(state["step_source"]["buffer"]) == 12


def test_a_checkpoint_within_a_step_has_the_state_from_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short in the third step, and the run ends right after the checkpoint of that."""
    whole, _ = _train(tmp_path / "whole")
    calls = 0
    accumulate = loop.accumulate_gradients

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OutOfMemory("not now")
        if calls == 4:
            raise LimitError("the power is gone")
        return accumulate(*args, **options)

    monkeypatch.setattr(loop, "accumulate_gradients", failing)
    with pytest.raises(LimitError, match="the power is gone"):
        _train(tmp_path / "parts")
    monkeypatch.undo()
    parts, _ = _train(tmp_path / "parts")
    buffers = [row.pairs for row in _rows(tmp_path / "parts")]
    assert buffers == [row.pairs for row in _rows(tmp_path / "whole")]
    for name, weight in tiny.weights(whole).items():
        torch.testing.assert_close(weight, tiny.weights(parts)[name], rtol=1e-5, atol=1e-6)


def test_the_shuffled_data_set_leaves_no_state(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    train(
        model,
        tiny.examples(),
        tiny.config(max_steps=1),
        loss=dpo,
        regularizer=None,
        out_dir=tmp_path,
        run_key="key",
    )
    state = json.loads((tmp_path / "checkpoints/step-00001/state.json").read_text())
    assert "step_source" not in state
