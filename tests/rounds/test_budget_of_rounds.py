"""A budget of all rounds with an automatic weight and an adapter: kills, and two processes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from run_place import GONE, OK, Place, jsonl
from test_several_processes import ends, launch

JUDGE = "def longest(prompt, completion) -> float:\n    return float(len(completion.text))\n"
LOGS = ("train_log.jsonl", "budget_log.jsonl", "train_final.json")


def rows(folder: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]


def without_its_end(folder: Path, *, checkpoints: bool) -> None:
    """Leave a training as a kill does: behind its last checkpoint but one, or before the first."""
    shutil.rmtree(folder / "model")
    for path in sorted((folder / "checkpoints").glob("step-*"))[0 if not checkpoints else -1 :]:
        shutil.rmtree(path)


@pytest.fixture
def second(place: Place) -> Path:
    """The second of two rounds with a budget of both, held by an automatic weight."""
    place.put("judge_of_budgets.py", JUDGE)
    place.put("prompts.jsonl", jsonl([{"prompt": f"question {n}"} for n in range(160)]))
    place.change(
        {
            "completions": GONE,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": 2, "temperature": 1.0, "max_new_tokens": 4},
            "rank": {
                "judge": {"name": "judge_of_budgets:longest"},
                "strategy": {"name": "pointwise"},
            },
            "pair.held_out_prompts": 140,
            "train.train_on_truncated": True,
            "train.max_steps": 4,
            "train.checkpoint_every": 1,
            "train.learning_rate": 1e-2,
            "train.adapter": "lora",
            "train.regularizer": {"name": "budget", "delta": 0.01},
            "train.regularizer_weight": "auto",
            "evaluate": {},
            "rounds": {"count": 2, "prompts": "same", "budget_since": "initial"},
        }
    )
    walked = prefine("run", "run.yaml")
    assert walked.code == OK, walked.err
    return Path("run/round-02")


def test_it_counts_from_the_first_policy_and_a_kill_changes_nothing(second: Path) -> None:
    stages = [
        json.loads(Path(run, "manifest.json").read_text())["stages"]["train"]["input_hashes"]
        for run in ("run/round-01", "run/round-02")
    ]
    assert "first_policy" not in stages[0]
    assert stages[1]["first_policy"] == stages[0]["policy"]
    # The probe of the second round begins where the first one has left it, not at 0.
    starts = [rows(f"run/round-0{number}", "budget_log.jsonl")[0] for number in (1, 2)]
    fall = next(name for name in starts[0] if name.endswith("fall"))
    assert starts[0][fall] == pytest.approx(0, abs=1e-4)
    assert abs(starts[1][fall]) > 1e-3

    whole = {name: (second / name).read_bytes() for name in LOGS}
    weights = (second / "model/model.safetensors").read_bytes()
    without_its_end(second, checkpoints=True)
    resumed = prefine("train", "run/round-02")
    assert resumed.code == OK, resumed.err
    assert {name: (second / name).read_bytes() for name in LOGS} == whole
    assert (second / "model/model.safetensors").read_bytes() == weights


@pytest.mark.torture
def test_two_processes_train_what_one_trains(second: Path) -> None:
    logs = ("train_log.jsonl", "budget_log.jsonl")
    one = [rows("run/round-02", name) for name in logs]
    without_its_end(second, checkpoints=False)
    codes, said = ends(launch("train", "run/round-02"), within_s=120)
    assert codes == [OK, OK], said
    for name, before in zip(logs, one, strict=True):
        after = rows("run/round-02", name)
        assert len(after) == len(before)
        for row, other in zip(after, before, strict=True):
            numbers = [key for key, value in other.items() if isinstance(value, int | float)]
            # Of rates and memory no two trainings are alike.
            for key in set(numbers) - {key for key in numbers if "second" in key or "gib" in key}:
                assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), (name, key)
