"""Divided layers train what one process trains: weights, log, checkpoints; afterwards the model
is whole.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from architectures import ATTENTION_ONLY, FLOAT32_ONLY
from loop_processes import SHARDED, STOPS_AFTER, training, values_of
from safetensors.torch import load_file
from test_loop_processes import assert_close, rows

from prefine.training import checkpoints
from prefine.training.token_sample import ScoredItem


@pytest.mark.parametrize("name", SHARDED)
def test_divided_layers_have_the_weights_of_one_process(
    two_processes: Path, tmp_path: Path, name: str
) -> None:
    scored: list[ScoredItem] = []
    expected = tiny.weights(training(tmp_path, **SHARDED[name], on_tokens=scored.extend))
    first, second = (
        load_file(two_processes / f"sharded-{name}-{rank}.safetensors") for rank in range(2)
    )
    assert {key: weight.shape for key, weight in first.items()} == {
        key: w.shape for key, w in expected.items()
    }
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    assert_close(first, expected)
    for row, other in zip(rows(two_processes / f"sharded-{name}"), rows(tmp_path), strict=True):
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-9)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-9)
    final, alone = (
        json.loads((at / "train_final.json").read_text())
        for at in (two_processes / f"sharded-{name}", tmp_path)
    )
    assert final["final"] == pytest.approx(alone["final"], rel=1e-9, abs=1e-11)
    kept = two_processes / f"sharded-{name}-tokens.json"
    assert kept.is_file() == bool(scored) == ("held_out" in SHARDED[name])
    if scored:
        assert_same_tokens(json.loads(kept.read_text(encoding="utf-8")), values_of(scored))


def assert_same_tokens(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert one[0] == other[0]
        for values, plain in zip(one[1] + one[2], other[1] + other[2], strict=True):
            assert values == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("name", ATTENTION_ONLY)
def test_divided_layers_of_any_architecture_have_the_gradient_of_one_process(
    two_processes: Path, name: str
) -> None:
    for rank in range(2):
        apart = json.loads((two_processes / f"apart-{rank}.json").read_text(encoding="utf-8"))
        # The same stock code in both, so that nothing but the order of sums differs.
        assert apart[name] <= (1e-6 if name in FLOAT32_ONLY else 1e-12)


def test_checkpoints_hold_whole_tensors(two_processes: Path, tmp_path: Path) -> None:
    training(tmp_path)
    found, expected = (
        checkpoints.load_newest(at / "checkpoints", run_key="key")[0]
        for at in (two_processes / "sharded-local", tmp_path)
    )
    assert found is not None and expected is not None
    assert_close(found.weights, expected.weights)
    assert_close(found.optimizer, expected.optimizer)


def test_one_process_goes_on_where_divided_layers_were_stopped(
    two_processes: Path, tmp_path: Path
) -> None:
    folder = two_processes / "sharded-then-one"
    assert len(rows(folder)) == STOPS_AFTER
    assert_close(tiny.weights(training(folder)), tiny.weights(training(tmp_path)))


def test_divided_layers_go_on_where_one_process_was_stopped(
    two_processes: Path, tmp_path: Path
) -> None:
    found = load_file(two_processes / "one-then-sharded-0.safetensors")
    assert_close(found, tiny.weights(training(tmp_path)))
