"""The walk of `delta: auto`: on simulated hills, and in a training that is interrupted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
import torch
from budget_training import cut_off, trained

from prefine.training.budget.climb import ClimbRow, DeltaClimb
from prefine.training.budget.probe import Fall

PROBE = 64


def walk(
    hill: Callable[[float], float], *, looks: int = 24, noise: float = 0.0, seed: int = 0
) -> tuple[DeltaClimb, list[ClimbRow]]:
    """Climb a hill of quality over the fall; the fall goes half the way to delta between looks."""
    draw = torch.Generator().manual_seed(seed)
    climb = DeltaClimb(1.0, 1.0, 1, torch.arange(PROBE))
    fall, falls, rows = 0.0, {0: 0.0}, []
    for step in range(1, looks + 1):
        fall += (climb.delta - fall) / 2
        falls[step] = fall
        values = hill(fall) + noise * torch.randn(PROBE, generator=draw, dtype=torch.float64)
        rows.append(climb.take(step, values, Fall(fall, 0.1), last=step == looks))
        if rows[-1].went_back:
            fall = falls[rows[-1].top_step]
    return climb, rows


@pytest.mark.parametrize("top", [1.5, 3.0, 5.0])
def test_it_finds_the_top_of_a_hill(top: float) -> None:
    climb, rows = walk(lambda fall: -((fall - top) ** 2))
    assert abs(climb.top_fall - top) < 0.3
    assert climb.delta == climb.top_delta
    assert max(row.fall for row in rows) < top + 1.5


def test_noise_moves_the_top_by_less_than_a_step() -> None:
    found = [
        walk(lambda fall: -((fall - 3) ** 2) / 4, noise=0.5, seed=seed)[0].top_fall
        for seed in range(20)
    ]
    assert abs(sum(found) / len(found) - 3) < 0.5
    assert max(abs(one - 3) for one in found) < 1.5


def test_on_a_flat_hill_it_never_goes_back_before_the_end() -> None:
    _, rows = walk(lambda fall: 0.7)
    assert not any(row.went_back for row in rows)
    assert [row.top_step for row in rows] == list(range(1, 25))


def test_where_any_fall_is_bad_it_stays_at_the_lowest_look() -> None:
    climb, _ = walk(lambda fall: -fall)
    assert climb.top_step == 1
    assert climb.top_fall == 0.5
    assert climb.delta == 1.0


def test_delta_waits_until_the_fall_has_reached_it() -> None:
    climb = DeltaClimb(1.0, 1.0, 1, torch.arange(4))
    values = torch.ones(4)
    deltas = [
        climb.take(step, values, Fall(fall, 0.1), last=False).next_delta
        for step, fall in enumerate((0.2, 0.8, 0.95, 1.2, 1.95), start=1)
    ]
    assert deltas == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_its_state_goes_through_a_checkpoint() -> None:
    climb, _ = walk(lambda fall: -((fall - 2) ** 2), looks=6, noise=0.1)
    other = DeltaClimb(1.0, 1.0, 1, torch.arange(PROBE))
    other.load_state_dict(json.loads(json.dumps(climb.state_dict())))
    assert other.state_dict() == climb.state_dict()


FILES = (
    "train_log.jsonl",
    "budget_log.jsonl",
    "eval_log.jsonl",
    "climb_log.jsonl",
    "train_final.json",
)
CLIMBING: dict[str, Any] = {
    "budget": {"delta": "auto", "start": 0.1, "step": 0.2, "looks": 6},
    # At this rate the accuracy on random pairs goes up and down, so training goes back.
    "settings": {"epochs": 6, "checkpoint_every": 5, "keep_checkpoints": 1, "learning_rate": 0.05},
}
ADAPTER = {"adapter": {"name": "lora", "rank": 3, "target_modules": ["q_proj", "down_proj"]}}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("more", [{}, ADAPTER], ids=["all_weights", "adapter"])
def test_an_interrupted_climb_resumes_to_the_same_bytes(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    options = CLIMBING | {"settings": CLIMBING["settings"] | more}
    whole, summary = trained(tmp_path / "whole", **options)
    for after in (4, 3, 5):
        cut_off(tmp_path / "cut", after, FILES[:4], **options)
    for _ in range(2):  # resumed, and finished once more
        again, _ = trained(tmp_path / "cut", **options)
        kept = tiny.weights(whole)
        assert all(torch.equal(value, kept[name]) for name, value in tiny.weights(again).items())
        for name in FILES:
            cut, one = ((tmp_path / where / name).read_bytes() for where in ("cut", "whole"))
            assert cut == one, name
    looks = lines(tmp_path / "whole/climb_log.jsonl")
    assert [row["step"] for row in looks] == [3, 6, 9, 12, 15, 18]
    assert any(f"kept the weights after step {looks[-1]['top_step']} " in n for n in summary.notes)


def test_the_kept_weights_are_those_of_the_best_look(tmp_path: Path) -> None:
    trained(tmp_path, **CLIMBING)
    looks, budget = lines(tmp_path / "climb_log.jsonl"), lines(tmp_path / "budget_log.jsonl")
    assert any(row["went_back"] for row in looks)
    best = next(row for row in looks if row["step"] == looks[-1]["top_step"])
    assert best["quality"] == max(row["quality"] for row in looks)
    # The last measurement is of the weights that are kept.
    assert budget[-1]["fall"] == pytest.approx(best["fall"], abs=1e-12)
    assert budget[-1]["delta"] == looks[-1]["next_delta"] == best["delta"]
    evaluated = lines(tmp_path / "eval_log.jsonl")
    assert [row["step"] for row in evaluated] == [0, 18]
    assert evaluated[-1]["fall"] == pytest.approx(budget[-1]["untouched_fall"], abs=1e-12)
