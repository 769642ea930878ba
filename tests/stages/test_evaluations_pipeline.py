"""Evaluation during training, early stop and trackers through the command, the Python API and
the run folder.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import prefine as library
from command import prefine
from prefine.config.yaml import load
from prefine.errors import DataError, Interrupted
from prefine.report.data import EvaluationPoint, TrainEnd
from prefine.report.outcome import budget_outcome
from prefine.report.page import render
from prefine.report.text import number
from prefine.report.training import held_out
from prefine.report.warnings import warnings_of
from prefine.run.folder import RunFolder
from prefine.stages.pipeline import run_stage
from prefine.stages.stage_run import Silent
from report_fixture import REPORT
from run_place import CONFIG, DATA, OK, PAIRS, Place, good_pairs

WATCHED = PAIRS | {
    "pair.held_out_prompts": 2,
    "train.evaluate_every": 2,
    "train.max_steps": 5,
    "train.epochs": 5,
    "train.pairs_per_step": 2,
    "train.learning_rate": 0.05,
    "train.checkpoint_every": 2,
}
SOON = {"patience": 1, "keep": 0.0, "entropy_fall": 0.0, "mass_fall": 0.0}


class StopsAfter(Silent):
    """Asks to stop when so many steps were made; keeps what it is told."""

    def __init__(self, steps: int) -> None:
        self._left, self.said = steps, list[str]()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._left -= count

    def say(self, text: str) -> None:
        self.said.append(text)

    @property
    def stopping(self) -> bool:
        return self._left <= 0


@pytest.fixture
def watched(place: Place) -> Iterator[Place]:
    place.change(WATCHED)
    yield place


def _stage(stage: str, progress: Silent | None = None) -> None:
    config = load(Path("run.yaml"))
    with RunFolder(config.run_dir) as folder:
        folder.adopt_config(config.resolved())
        run_stage(stage, config, folder, progress or Silent())


def _lines(run: Path, name: str = "eval_log.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def _notes(run: Path) -> list[str]:
    return json.loads((run / "manifest.json").read_text())["stages"]["train"]["notes"]


def test_held_out_pairs_are_evaluated_and_reported(watched: Place) -> None:
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    run = watched.root / "run"
    assert [row["step"] for row in _lines(run)] == [0, 2, 4, 5]
    assert "2 held-out pairs after step 4: loss" in found.err
    assert "% of the" in " ".join(_notes(run))
    page = (run / "report.html").read_text()
    assert "Held-out pairs during training" in page
    assert "On 2 held-out pairs" in page
    again = prefine("run", "run.yaml")
    assert again.code == OK and [row["step"] for row in _lines(run)] == [0, 2, 4, 5]


def test_an_alarm_is_in_manifest_card_and_report(watched: Place) -> None:
    watched.change({"train.early_stop": SOON})
    found = prefine("run", "run.yaml")
    assert found.code == OK, found.err
    run = watched.root / "run"
    final = json.loads((run / "train_final.json").read_text())
    assert final["steps"] in (2, 4) and len(_lines(run, "train_log.jsonl")) == final["steps"]
    alarm = final["stopped_by"]
    assert f"the alarm {alarm} ended training after step {final['steps']} of 5" in _notes(run)
    card = (run / "model" / "README.md").read_text()
    assert f"`{alarm}`, ended it early" in card and f"{final['steps']} optimizer steps" in card
    assert (
        f"The alarm “{alarm}” ended training after {final['steps']} steps"
        in (run / "report.html").read_text()
    )


@pytest.mark.parametrize("change", [{"train.evaluate_every": 1}, {"train.early_stop": SOON}])
def test_what_decides_is_frozen(watched: Place, change: dict[str, Any]) -> None:
    _stage("pair")
    with pytest.raises(Interrupted):
        _stage("train", StopsAfter(1))
    watched.change(change)
    found = prefine("train", "run.yaml")
    assert found.code == CONFIG
    assert next(iter(change)) in found.err


def test_without_held_out_pairs_nothing_is_trained(watched: Place) -> None:
    watched.change({"pair.held_out_prompts": 0})
    for command in (
        ("config", "check", "run.yaml"),
        ("run", "run.yaml"),
        ("run", "run.yaml", "--dry-run"),
    ):
        found = prefine(*command)
        assert found.code == CONFIG, found.err
        assert "train.evaluate_every: no pairs are held out" in found.err
        assert "pair.held_out_prompts" in found.err
    assert prefine("pair", "run.yaml").code == OK
    found = prefine("train", "run.yaml")
    assert found.code == DATA
    assert (
        "no held-out pair can be evaluated" in found.err
        and "give pair.held_out_prompts" in found.err
    )
    assert not any((watched.root / "run" / "checkpoints").glob("step-*"))


def test_an_early_stop_without_evaluations_is_refused(watched: Place) -> None:
    watched.change({"train.early_stop": {"patience": 1}, "train.evaluate_every": None})
    found = prefine("run", "run.yaml")
    assert found.code == CONFIG
    assert "early_stop needs evaluations; set train.evaluate_every" in found.err


# --- trackers


def _points(run: Path, name: str) -> list[int]:
    events = EventAccumulator(str(run / "trackers" / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


def test_tensorboard_has_every_step_once_also_of_a_resumed_run(watched: Place) -> None:
    watched.change({"train.tracking": {"trackers": ["tensorboard"]}})
    run = watched.root / "run"
    _stage("pair")
    with pytest.raises(Interrupted):
        _stage("train", StopsAfter(0))
    with pytest.raises(Interrupted):
        _stage("train", StopsAfter(3))
    # TensorBoard reads files in the order of their names, which begin with the second.
    time.sleep(1 - time.time() % 1)
    progress = StopsAfter(100)
    _stage("train", progress)
    assert "training goes on after step 3" in progress.said
    assert _points(run, "train/margin") == [1, 2, 3, 4, 5]
    assert _points(run, "eval/margin") == [0, 2, 4, 5]
    assert _points(run, "eval/top_mass") == [0, 2, 4, 5]


def test_trackers_may_change_and_are_no_part_of_the_model(watched: Place) -> None:
    run = watched.root / "run"
    _stage("pair")
    with pytest.raises(Interrupted):
        _stage("train", StopsAfter(2))
    watched.change(
        {"train.tracking": {"trackers": ["tensorboard"], "project": "other", "run_name": "mine"}}
    )
    found = prefine("train", "run.yaml")
    assert found.code == OK, found.err
    assert _points(run, "train/margin") == [3, 4, 5]
    assert "tensorboard" not in (run / "model" / "README.md").read_text()
    assert "training goes on after step 2" in found.err


def test_another_training_leaves_its_trackers_and_evaluations_behind(watched: Place) -> None:
    watched.change({"train.tracking": {"trackers": ["tensorboard"]}})
    assert prefine("run", "run.yaml").code == OK
    run = watched.root / "run"
    before = (run / "eval_log.jsonl").read_bytes()
    rows = [row | {"chosen": f"quite {row['chosen']}"} for row in good_pairs()]
    library.train("model", rows[:2], output_dir="run2", settings={"epochs": 1}, held_out=rows[2:])
    for path in (run / "pairs", run / "heldout_pairs"):
        for part in path.iterdir():
            part.write_bytes((watched.root / "run2" / path.name / part.name).read_bytes())
    found = prefine("train", "run.yaml")
    assert found.code == OK, found.err
    (old,) = run.glob("training-before-*")
    assert (old / "eval_log.jsonl").read_bytes() == before
    assert (old / "trackers" / "tensorboard").is_dir()
    assert _points(run, "train/margin") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        (
            {"trackers": ["mlflow"]},
            "train.tracking.trackers: mlflow is not installed; pip install mlflow",
        ),
        ({"trackers": ["comet"]}, "train.tracking.trackers"),
        ({"trackers": ["tensorboard"], "project": "a/b"}, "train.tracking.project"),
    ],
)
def test_trackers_that_cannot_be_are_refused(
    watched: Place, monkeypatch: pytest.MonkeyPatch, tracking: dict[str, Any], says: str
) -> None:
    watched.change({"train.tracking": tracking})
    for command in (("config", "check", "run.yaml"), ("run", "run.yaml")):
        found = prefine(*command)
        assert found.code == CONFIG, found.err
        assert says in found.err
    assert not (watched.root / "run" / "checkpoints").exists()


# --- from Python


def test_the_python_api_evaluates_pairs_that_it_is_given(place: Place) -> None:
    rows = good_pairs()
    settings = {"evaluate_every": 1, "pairs_per_step": 1, "learning_rate": 0.01}
    trained = library.train(
        "model", rows[:2], output_dir="run", settings=settings, held_out=rows[2:]
    )
    assert [row.step for row in trained.evaluations] == [0, 1, 2]
    assert trained.evaluations[0].margin == 0 != trained.evaluations[-1].margin
    same = library.train("model", rows[:2], output_dir="run", settings=settings, held_out=rows[2:])
    assert same == trained
    with pytest.raises(DataError, match="its prompt is held out, too"):
        library.train("model", rows[:3], output_dir="leak", settings=settings, held_out=rows[2:])
    with pytest.raises(DataError, match=r"train\(…, held_out=…\)"):
        library.train("model", rows[:2], output_dir="none", settings=settings)


# --- on the page


def _evaluation(step: int, **values: float) -> EvaluationPoint:
    numbers = {
        "loss": 0.69 - step / 1000,
        "margin": step / 50,
        "accuracy": 0.5 + step / 1000,
        "chosen_change": -step / 100,
        "rejected_change": -step / 30,
        "fall": step / 100,
        "top_mass": 0.97,
        "top_entropy_renormalised": 1.4 - step / 500,
        **values,
    }
    return EvaluationPoint(step=step, pairs=120, margin_se=0.25, **numbers)


def test_the_page_shows_where_held_out_pairs_went_and_what_stopped_training() -> None:
    points = tuple(map(_evaluation, range(0, 201, 20)))
    end = TrainEnd(chosen_change=-4, rejected_change=-9, fall=4, stopped_by="collapse")
    data = REPORT.model_copy(update={"evaluations": points, "trained": end})
    text = " ".join(
        re.sub(r"<[^>]*>", " ", render(data)).replace("\u00a0", " ").replace("\u2060", "").split()
    )
    assert (
        "On 120 held-out pairs, which are not trained on, the margin after 200 steps is 4.00 nats "
        "(95 % interval 3.51–4.49)." in text
    )
    assert (
        "The alarm “collapse” ended training after 200 steps: the likeliest tokens became fewer"
        in text
    )
    assert "4.00 ± 0.25" in text
    assert "Held-out" not in render(REPORT)
    many = held_out(data.model_copy(update={"evaluations": tuple(map(_evaluation, range(1001)))}))
    assert many is not None and len(many.table) <= 120 and many.table[-1][0] == "1,000"
    assert many.note == "One evaluation in 9 is shown."
    one = held_out(data.model_copy(update={"evaluations": points[:1], "trained": None}))
    assert one is not None and one.stop == "" and "after 0 steps" in one.finding


@pytest.mark.parametrize(
    ("fall", "error", "verdict"),
    [(3.24, 0.2, "exceeded"), (1.2, 0.1, "kept"), (1.2, 0.3, "undecided"), (1.7, 0.3, "undecided"),
     (0.2, None, "undecided")],
)  # fmt: skip
def test_the_budget_is_judged_by_the_interval_of_held_out_pairs(
    fall: float, error: float | None, verdict: str
) -> None:
    points = (_evaluation(0), _evaluation(200, fall=fall, fall_se=error))  # type: ignore[arg-type]
    end = TrainEnd(
        chosen_change=0.29,
        chosen_change_se=0.1,
        rejected_change=-9,
        fall=-0.29,
        beyond_delta=0.1,
    )
    data = REPORT.model_copy(update={"evaluations": points, "trained": end, "delta": 1.5})
    found = budget_outcome(data)
    assert found is not None and found.verdict == verdict
    text = " ".join(
        re.sub(r"<[^>]*>", " ", render(data)).replace("\u00a0", " ").replace("\u2060", "").split()
    )
    assert f"The budget of 1.50 nats is {verdict}: on 120 held-out pairs" in text
    assert (
        "training pairs has changed by +0.29 nats (95 % interval 0.09–0.49), that of the rejected "
        "ones by −9.00 nats (no interval was computed)." in text
    )
    assert "nats at the end, training pairs (95 % interval 0.09–0.49); budget −1.50" in text
    if error is not None:
        low, high = (f"{fall + sign * 1.959964 * error:.2f}" for sign in (-1, 1))
        assert f"fell by {number(fall)} nats (95 % interval {low}–{high} nats)." in text
    warned = [line for line in warnings_of(data) if "is exceeded on held-out pairs" in line]
    assert len(warned) == (verdict == "exceeded")


def test_without_held_out_pairs_nothing_is_said_to_be_kept() -> None:
    assert budget_outcome(REPORT) is None
    text = " ".join(
        re.sub(r"<[^>]*>", " ", render(REPORT)).replace("\u00a0", " ").replace("\u2060", "").split()
    )
    assert "Whether the budget of 5 nats was kept on other answers is not known" in text
    assert "inside the budget" not in text
