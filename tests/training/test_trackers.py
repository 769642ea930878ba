"""Rows of a training in experiment trackers, through accelerate's own clients."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prefine.errors import BackendError, ConfigError
from prefine.secrets import read_secret
from prefine.training.logging.trackers import (
    PACKAGES,
    Trackers,
    check_installed,
    flat_config,
    flat_row,
    open_trackers,
)
from prefine.training.relations.pair_rows import StepRow

SERVED: Any = ("wandb", "mlflow", "trackio")
KEY = "sk-very-secret-key-1234"


def row(step: int, **values: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(StepRow.model_fields, 0.5)
    whole = dict.fromkeys(("epoch", "pairs", "tokens"), 1)
    filled = StepRow(
        **{
            **numbers,
            **whole,
            "beyond_budget": None,
            "hyper_parameters": {"loss.beta": 0.1},
            "step": step,
            **values,
        }
    )
    return filled.model_dump(exclude={"step"})


def start(
    folder: Path, names: Any, *, first_step: int = 1, run_key: str = "k", **values: Any
) -> Trackers:
    settings = {
        "project": "prefine",
        "run_name": "mine",
        "config": {"train": {"epochs": 2}},
        **values,
    }
    return open_trackers(names, folder=folder, run_key=run_key, first_step=first_step, **settings)


class Fakes:
    """The calls that the stand-ins of the packages got."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def calls(self, tracker: str, call: str) -> list[dict[str, Any]]:
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [
            one
            for one in map(json.loads, lines)
            if (one["tracker"], one["call"]) == (tracker, call)
        ]

    def steps(self, tracker: str) -> list[int]:
        return [call["step"] for call in self.calls(tracker, "log")]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    monkeypatch.setenv("FAKE_TRACKER_LOG", str(tmp_path / "calls.jsonl"))
    (tmp_path / "packages").mkdir()
    for name in SERVED:
        shutil.copy(
            Path(__file__).with_name("fake_tracker.py"), tmp_path / "packages" / f"{name}.py"
        )
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for variable in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TAGS", "MLFLOW_NESTED_RUN"):
        monkeypatch.delenv(variable, raising=False)
    yield Fakes(tmp_path / "calls.jsonl")
    for name in SERVED:
        sys.modules.pop(name, None)


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


# --- TensorBoard itself


def test_tensorboard_shows_rows_and_evaluations(tmp_path: Path) -> None:
    with start(tmp_path, ("tensorboard",)) as trackers:
        trackers.log("eval", 0, {"margin": 0.0})
        for step in (1, 2):
            trackers.log("train", step, row(step, margin=step / 4))
        trackers.log("eval", 2, {"margin": 3.0, "accuracy": None})
    assert points(tmp_path, "train/margin") == [(1, 0.25), (2, 0.5)]
    assert points(tmp_path, "eval/margin") == [(0, 0.0), (2, 3.0)]
    assert points(tmp_path, "train/hyper_parameters/loss/beta")[0] == (1, pytest.approx(0.1))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert not names & {"train/step", "train/beyond_budget", "eval/accuracy"}
    assert trackers.notes == ()


@pytest.mark.parametrize(
    ("checkpoint", "run_key"), [(0, "k"), (3, "k"), (5, "k"), (0, "another training")]
)
def test_tensorboard_shows_every_step_of_a_resumed_training_once(
    tmp_path: Path, checkpoint: int, run_key: str
) -> None:
    killed = start(tmp_path, ("tensorboard",))
    killed.log("eval", 0, {"margin": 0.0})
    for step in range(1, 6):
        killed.log("train", step, row(step))
    # TensorBoard reads files in the order of their names, which begin with the second.
    time.sleep(1 - time.time() % 1)
    with start(tmp_path, ("tensorboard",), first_step=checkpoint + 1, run_key=run_key) as trackers:
        if not checkpoint:
            trackers.log("eval", 0, {"margin": 0.0})
        for step in range(checkpoint + 1, 8):
            trackers.log("train", step, row(step))
    assert [step for step, _ in points(tmp_path, "train/loss")] == list(range(1, 8))
    assert [step for step, _ in points(tmp_path, "eval/margin")] == [0]


# --- the others, by stand-ins for their packages


@pytest.mark.parametrize("name", SERVED)
def test_a_run_has_its_configuration_and_its_rows(tmp_path: Path, fakes: Fakes, name: Any) -> None:
    with start(tmp_path / "logs", (name,), run_name="../my run") as trackers:
        trackers.log("train", 1, row(1))
        trackers.log("eval", 1, {"margin": 1.5})
        trackers.close()
    (settings,) = [call["settings"] for call in fakes.calls(name, "init")]
    shown = settings["run_name"] if name == "mlflow" else settings["name"]
    assert shown.startswith("my-run")
    assert settings.get("project", "prefine") == "prefine"
    (stored,) = (
        [settings["config"]]
        if name == "trackio"
        else [one["values"] for one in fakes.calls(name, "config")]
    )
    assert stored == {"train.epochs": 2}
    first, second = fakes.calls(name, "log")
    assert first["values"]["train/loss"] == 0.5
    assert second == {"tracker": name, "call": "log", "step": 1, "values": {"eval/margin": 1.5}}
    assert len(fakes.calls(name, "finish")) == 1


@pytest.mark.parametrize("name", SERVED)
def test_a_resumed_training_goes_on_in_the_same_run_and_logs_no_step_twice(
    tmp_path: Path, fakes: Fakes, name: Any
) -> None:
    killed = start(tmp_path, (name,))
    for step in range(1, 6):
        killed.log("train", step, row(step))
    killed.log("eval", 4, {"margin": 1.0})
    with start(tmp_path, (name,), first_step=4) as trackers:
        for step in range(4, 8):
            trackers.log("train", step, row(step))
            if step in (4, 7):
                trackers.log("eval", step, {"margin": 1.0})
    # W&B ignores steps behind its last, so that what a kill lost can be sent again.
    again = [4, 4, 5] if name == "wandb" else []
    assert fakes.steps(name) == [1, 2, 3, 4, 5, 4, *again, 6, 7, 7]
    first, second = (call["settings"] for call in fakes.calls(name, "init"))
    if name == "mlflow":
        assert (first["run_id"], second["run_id"]) == (None, "run-of-the-server")
    elif name == "wandb":
        assert first["id"] == second["id"]
        assert second["resume"] == "allow"
    else:
        assert first["name"] == second["name"]
        assert (first["resume"], second["resume"]) == ("never", "allow")
    assert len(fakes.calls(name, "config")) == (name != "trackio")


@pytest.mark.parametrize("name", SERVED)
def test_another_training_in_the_same_folder_is_a_new_run(
    tmp_path: Path, fakes: Fakes, name: Any
) -> None:
    for key in ("one", "other"):
        with start(tmp_path, (name,), run_key=key) as trackers:
            trackers.log("train", 1, row(1))
    assert fakes.steps(name) == [1, 1]
    first, second = (call["settings"] for call in fakes.calls(name, "init"))
    assert name == "mlflow" or first != second
    assert len(fakes.calls(name, "config")) == (0 if name == "trackio" else 2)


def test_what_a_client_says_is_no_result(
    tmp_path: Path, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(tmp_path, ("wandb", "trackio")) as trackers:
        trackers.log("train", 1, row(1))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "wandb speaks" in shown.err


@pytest.mark.parametrize("call", ["log 2", "finish None"])
def test_a_tracker_that_fails_costs_no_training(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    read_secret("MY_KEY")
    monkeypatch.setenv("FAKE_TRACKER_FAILS_AT", f"wandb {call}")
    with start(tmp_path, ("wandb", "mlflow")) as trackers:
        for step in (1, 2, 3):
            trackers.log("train", step, row(step))
    assert fakes.steps("mlflow") == [1, 2, 3]
    assert fakes.steps("wandb") == ([1, 2] if call == "log 2" else [1, 2, 3])
    (note,) = trackers.notes
    assert "wandb failed" in note and "train_log.jsonl" in note
    assert KEY not in note


def test_a_tracker_that_does_not_start_is_an_error_and_the_others_are_closed(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    read_secret("MY_KEY")
    monkeypatch.setenv("FAKE_TRACKER_FAILS_AT", "trackio init None")
    with pytest.raises(BackendError, match="trackio did not start: the server of key") as raised:
        start(tmp_path, ("wandb", "trackio"))
    assert KEY not in str(raised.value)
    assert len(fakes.calls("wandb", "finish")) == 1


def test_a_damaged_record_says_what_to_do(tmp_path: Path, fakes: Fakes) -> None:
    (tmp_path / "trackers.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="delete it to begin new runs"):
        start(tmp_path, ("wandb",))


# --- before any work


@pytest.mark.parametrize("name", [*PACKAGES])
def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    # A folder of this name, as W&B leaves one, is no package.
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for package in PACKAGES[name]:
        monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(
        ConfigError, match=f"train.tracking.trackers: {name} is not installed; pip install {name}"
    ):
        check_installed((name,))


def test_nothing_is_done_without_trackers(tmp_path: Path) -> None:
    with start(tmp_path / "logs", ()) as trackers:
        trackers.log("train", 1, row(1))
    assert not (tmp_path / "logs").exists()


def test_only_the_main_process_logs(tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).with_name("tracking_process.py"))]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    started = [
        subprocess.Popen([*script, str(rank), str(tmp_path / "meet"), str(tmp_path)], env=path)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    assert points(tmp_path / "0", "train/loss") == [(1, 0.5)]
    assert not (tmp_path / "1").exists()


def test_keys_do_not_leave_with_the_configuration(
    tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that does not look like a key, or the configuration would be refused.
    key = "a-secret-without-a-usual-form"
    monkeypatch.setenv("MY_KEY", key)
    read_secret("MY_KEY")
    hidden = {
        "policy": {"path": f"/models/{key}", "stop": ["a", key]},
        "rank": {"api_key_env": "MY_KEY"},
    }
    with start(tmp_path / "logs", (*SERVED, "tensorboard"), config=hidden) as trackers:
        trackers.log("train", 1, row(1))
    written = [
        path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".py"
    ]
    assert any(b"/models/[key]" in content for content in written)
    assert not any(key.encode() in content for content in written)
    with pytest.raises(ConfigError, match=r"policy\.api_key: keys are never written"):
        start(tmp_path / "other", ("wandb",), config={"policy": {"api_key": "x"}})
    assert not (tmp_path / "other").exists()


def test_flat_rows_and_configurations() -> None:
    values = {
        "loss": 1,
        "none": None,
        "text": "x",
        "nan": float("nan"),
        "moved": {"loss.losses.1.beta": 0.5},
    }
    assert flat_row(values, "train") == {"train/loss": 1, "train/moved/loss/losses/1/beta": 0.5}
    config = {
        "train": {"loss": {"name": "dpo", "beta": 0.1}, "adapter": None, "adam_betas": [0.9, 0.99]},
        "x": True,
    }
    assert flat_config(config) == {
        "train.loss.name": "dpo",
        "train.loss.beta": 0.1,
        "train.adapter": "null",
        "train.adam_betas": "[0.9, 0.99]",
        "x": True,
    }
