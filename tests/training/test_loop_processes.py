"""A training by two processes is the training by one: weights, log, stopping, and going on in
any number.
"""

import json
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from budget_training import trained
from loop_processes import AUTOMATIC, STOPS_AFTER, training
from safetensors.torch import load_file

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, tiny.weights(training(folder))


def assert_close(found: Weights, expected: Weights) -> None:
    for name, weight in found.items():
        apart = torch.linalg.norm(weight - expected[name]) / torch.linalg.norm(expected[name])
        assert apart <= 1e-12, f"{name}: {apart:.2g}"


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in tiny.log(folder).splitlines()]


@pytest.mark.parametrize("name", ["whole", "resumed"])
def test_both_have_the_weights_of_one(
    two_processes: Path, alone: tuple[Path, Weights], name: str
) -> None:
    first, second = (load_file(two_processes / f"{name}-{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(weight, second[key]) for key, weight in first.items())
    assert_close(first, alone[1])


def test_both_leave_out_the_same_pairs_as_one(two_processes: Path, tmp_path: Path) -> None:
    expected = tiny.weights(training(tmp_path, settings={"ches_below": 0.5}))
    for rank in range(2):
        assert_close(load_file(two_processes / f"ches-{rank}.safetensors"), expected)


def test_an_automatic_budget_has_the_weights_of_one(two_processes: Path, tmp_path: Path) -> None:
    expected = tiny.weights(trained(tmp_path, **AUTOMATIC)[0])
    for rank in range(2):
        assert_close(load_file(two_processes / f"automatic-{rank}.safetensors"), expected)


@pytest.mark.parametrize("name", ["whole", "one-then-two"])
def test_one_log_and_the_same_figures(
    two_processes: Path, alone: tuple[Path, Weights], name: str
) -> None:
    found, expected = rows(two_processes / name), rows(alone[0])
    assert [row["step"] for row in found] == list(range(1, 10))
    for row, other in zip(found, expected, strict=True):
        for key, value in other.items():
            if key == "accuracy" and abs(other["margin"]) < 1e-12:
                # The policy is still the reference: margins are rounding, and so are their signs.
                continue
            assert row[key] == (
                pytest.approx(value, rel=1e-9, abs=1e-11) if isinstance(value, float) else value
            )
    final, other_final = (
        json.loads((at / "train_final.json").read_text())["final"]
        for at in (two_processes / name, alone[0])
    )
    assert final == pytest.approx(other_final, rel=1e-9, abs=1e-11)


def test_one_goes_on_where_two_were_stopped(
    two_processes: Path, alone: tuple[Path, Weights]
) -> None:
    folder = two_processes / "two-then-one"
    assert [
        path.name
        for path in (folder / "checkpoints").iterdir()
        if path.name == f"step-{STOPS_AFTER:05d}"
    ]
    assert len(rows(folder)) == STOPS_AFTER
    assert_close(tiny.weights(training(folder)), alone[1])


def test_weights_that_differ_are_noticed_by_both(two_processes: Path) -> None:
    for rank in range(2):
        assert "different weights after step 7" in (two_processes / f"differs-{rank}").read_text(
            encoding="utf-8"
        )
