"""`prefine train` killed without warning at random steps, again and again: the bytes of a run
that nobody killed.
"""

import json
import os
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from command import prefine, start
from run_place import PAIRS, Place, jsonl

# A step takes long enough to be hit.
LOSS = """
import time
from prefine.losses import dpo
from prefine.losses.protocol import declare

@declare()
def slow(logps, *, pause: float):
    time.sleep(pause)
    return dpo(logps)
"""


def contents(folder: str) -> dict[str, bytes]:
    files = [
        *Path(folder, "model").iterdir(),
        *Path(folder).glob("*_log.jsonl"),
        Path(folder, "train_final.json"),
    ]
    return {path.name: path.read_bytes() for path in files}


def log_rows(folder: str) -> int:
    path = Path(folder, "train_log.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(step: int) -> None:
    """Start the training, and kill it when a row of this step is there."""
    process = start("train", "run.yaml")
    end = time.monotonic() + 120
    while log_rows("run") < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the step never came"
        time.sleep(0.002)
    process.kill()
    process.communicate()


SELF_PLAY: dict[str, Any] = {
    "train.step_source": {
        "name": "self_play",
        "segment_tokens": 4,
        "buffer_size": 9,
        "reference_every": 5,
    }
}


def survive(
    place: Place,
    *,
    kills: int,
    steps: int,
    seed: int,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Kill one training at so many random steps, and compare what it leaves with an undisturbed
    one.
    """
    settings = {
        "pairs_per_step": 2,
        "epochs": steps // 2,
        "checkpoint_every": 3,
        "learning_rate": 1e-3,
    }
    place.put("losses_here.py", LOSS)
    place.change(
        PAIRS
        | {f"train.{name}": value for name, value in settings.items()}
        | {"train.max_steps": None}
    )
    place.change({"train.loss": {"name": "losses_here:slow", "pause": 0.02}, **changes})
    for folder in ("run", "whole"):
        assert prefine("pair", "run.yaml", "--run-dir", folder).code == 0
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == 0
    moments = sorted(random.Random(seed).sample(range(1, steps), kills))
    for moment in moments:
        kill_at(moment)
        checkpoints = sorted(path.name for path in Path("run/checkpoints").glob("*step-*"))
        print(
            f"killed after step {log_rows('run')}, waited for {moment}; checkpoints: "
            f"{', '.join(checkpoints)}"
        )
    result = prefine("train", "run.yaml")
    assert result.code == 0, result.err
    assert log_rows("run") == steps
    assert contents("run") == contents("whole")


def test_three_kills_at_random_steps(place: Place) -> None:
    survive(place, kills=3, steps=24, seed=7)


def test_three_kills_at_random_steps_of_self_play(place: Place) -> None:
    """The average, the moved reference, the buffer with its counts and the random numbers."""
    survive(place, kills=3, steps=24, seed=8, changes=SELF_PLAY)


def test_a_kill_after_a_checkpoint_of_an_automatic_budget(place: Place) -> None:
    """The controller's state, the drawn anchors and the logs of the probe and the untouched pairs
    are those of a training that nobody killed.
    """
    place.put("losses_here.py", LOSS)
    rows = [
        {
            "prompt": f"question {n}",
            "completions": [{"text": f"answer {n} {m}", "grade": m} for m in range(4)],
        }
        for n in range(750)
    ]
    place.put("answers.jsonl", jsonl(rows))
    # Answers of random models become likelier together: a budget that binds is below 0.
    budget = {"name": "budget", "delta": -4.0, "anchor": {"chosen": 1.0, "better": 1.0}, "every": 2}
    place.change(
        {
            "train.loss": {"name": "losses_here:slow", "pause": 0.05},
            "train.regularizer": budget,
            "train.regularizer_weight": "auto",
            "train.pairs_per_step": 8,
            "train.max_steps": 12,
            "train.checkpoint_every": 4,
            "train.evaluate_every": 3,
        }
    )
    for stage in ("sample", "rank", "pair"):
        done = prefine(stage, "run.yaml")
        assert done.code == 0, done.err
    shutil.copytree("run", "whole")
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == 0
    for step in (6, 9):
        kill_at(step)
        assert list(Path("run/checkpoints").glob("*step-*"))
        assert log_rows("run") < 12
    result = prefine("train", "run.yaml")
    assert result.code == 0, result.err
    found = contents("run")
    assert {"train_log.jsonl", "eval_log.jsonl", "budget_log.jsonl"} < found.keys()
    assert found == contents("whole")
    measured = [json.loads(line) for line in found["budget_log.jsonl"].splitlines()]
    assert [row["step"] for row in measured] == [0, 2, 4, 6, 8, 10, 12]
    assert measured[2]["regularizer_weight"] > 0


@pytest.mark.torture
def test_ten_kills_at_random_steps(place: Place) -> None:
    survive(place, kills=10, steps=80, seed=int(os.environ.get("PREFINE_TORTURE_SEED", "0")))


@pytest.mark.torture
def test_ten_kills_at_random_steps_of_self_play(place: Place) -> None:
    seed = int(os.environ.get("PREFINE_TORTURE_SEED", "0"))
    survive(place, kills=10, steps=80, seed=seed, changes=SELF_PLAY)
