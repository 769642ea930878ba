"""The report's pictures as data: the same figures, held-out beside training, gaps, budget line."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefine.atomic import write_text
from prefine.errors import DataError
from prefine.records import SCHEMA_VERSION
from prefine.run.view import RunView
from prefine.view.chart_data import MOST_POINTS, ChartData, charts, curve_points, figure

PAIR_STEP: dict[str, Any] = {
    "loss": 0.7,
    "chosen_logp": -20.0,
    "rejected_logp": -30.0,
    "chosen_change": -0.5,
    "rejected_change": -1.0,
    "margin": 0.5,
    "accuracy": 0.75,
    "fall": 0.5,
    "fall_q10": 0.25,
    "fall_q90": 0.75,
    "beyond_budget": 0.0,
    "grad_norm": 1.0,
    "pairs": 4,
}
EVALUATION = {"loss": 0.6, "margin": 0.25, "accuracy": 0.5, "pairs": 2} | {
    "chosen_change": -0.25,
    "rejected_change": -0.5,
    "fall": 0.25,
    "top_mass": 0.875,
    "top_entropy_renormalised": 1.5,
}


def _run(
    folder: Path,
    steps: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
    train: dict[str, Any] | None = None,
) -> RunView:
    config = {
        "policy": {"name": "playground"},
        "pairs": {"name": "file", "path": "pairs.jsonl"},
        "train": {"loss": {"name": "dpo"}, **(train or {})},
    }
    folder.mkdir(parents=True)
    write_text(
        folder / "config.json", json.dumps({"schema_version": SCHEMA_VERSION, "config": config})
    )
    for name, rows in (("train_log.jsonl", steps), ("eval_log.jsonl", evaluations)):
        if rows:
            write_text(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
    return RunView(folder)


def _steps(count: int, row: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return [row | {"step": step, **more} for step in range(1, count + 1)]


def _by_title(found: list[ChartData]) -> dict[str, ChartData]:
    return {one.title: one for one in found}


def test_pairs(tmp_path: Path) -> None:
    regularizer = {"regularizer": {"name": "budget", "delta": 1.0}, "regularizer_weight": 0.1}
    evaluations = [EVALUATION | {"step": step} for step in (0, 2, 3)]
    run = _run(tmp_path / "run", _steps(3, PAIR_STEP), evaluations, regularizer)
    found = _by_title(charts(run))
    assert list(found) == [
        "Change of the answers’ log-probability",
        "Accuracy: chosen over rejected",
        "Margin",
        "Loss",
        "Gradient norm",
        "Entropy among likely tokens",
        "Probability of likely tokens",
    ]
    main = found["Change of the answers’ log-probability"]
    assert [(one.name, one.kind, one.points) for one in main.series] == [
        ("chosen", "chosen", ((1, -0.5), (2, -0.5), (3, -0.5))),
        ("rejected", "rejected", ((1, -1.0), (2, -1.0), (3, -1.0))),
        ("held-out chosen", "chosen held-out", ((0, -0.25), (2, -0.25), (3, -0.25))),
        ("held-out rejected", "rejected held-out", ((0, -0.5), (2, -0.5), (3, -0.5))),
    ]
    assert main.bands[0].low == ((1, -0.75), (2, -0.75), (3, -0.75))
    assert [(mark.y, mark.label) for mark in main.marks] == [(-1.0, "budget −1")]
    accuracy = found["Accuracy: chosen over rejected"]
    assert accuracy.range == (0.0, 100.0) and accuracy.marks[0].y == 50.0
    assert [(one.name, one.points[0]) for one in accuracy.series] == [
        ("training", (1, 75.0)),
        ("held-out", (0, 50.0)),
    ]
    assert [one.name for one in found["Probability of likely tokens"].series] == ["held-out"]


def test_a_budget_far_away_is_no_line(tmp_path: Path) -> None:
    settings = {"regularizer": {"name": "budget", "delta": 100.0}, "regularizer_weight": 0.1}
    run = _run(tmp_path / "run", _steps(3, PAIR_STEP), [], settings)
    assert charts(run)[0].marks == ()


def test_labels_have_training_and_held_out_on_one_axis(tmp_path: Path) -> None:
    row = {"loss": 0.5, "auc": 0.75, "desirable_change": 0.5, "labels": 4}
    evaluations = [{"step": 0, "loss": 0.75, "labels": 2}, {"step": 3, "loss": 0.5, "labels": 2}]
    run = _run(tmp_path / "run", _steps(3, row), evaluations, {"loss": {"name": "kto"}})
    found = _by_title(charts(run))
    assert list(found) == ["Loss", "AUC: good over bad answers", "Good answers, change"]
    assert [(one.name, one.points[-1]) for one in found["Loss"].series] == [
        ("training", (3, 0.5)),
        ("held-out", (3, 0.5)),
    ]


def test_several_kinds_have_pictures_of_each(tmp_path: Path) -> None:
    kinds = {"pairs": {"loss": 0.5, "accuracy": 0.75}, "labels": {"loss": 0.25}}
    row = {"loss": 0.5, "margin": 0.25, "items": 4, "kinds": kinds}
    losses = {"loss": {"pairs": {"name": "dpo"}, "labels": {"name": "kto"}}}
    run = _run(tmp_path / "run", _steps(2, row), [row | {"step": 0}, row | {"step": 2}], losses)
    found = _by_title(charts(run))
    assert list(found) == [
        "Loss",
        "Pairs: Loss",
        "Pairs: Accuracy: chosen over rejected",
        "Labels: Loss",
    ]
    training, held_out = found["Pairs: Accuracy: chosen over rejected"].series
    assert training.points == ((1, 75.0), (2, 75.0))
    assert held_out.points == ((0, 75.0), (2, 75.0))


def test_a_run_before_training_has_no_picture(tmp_path: Path) -> None:
    assert charts(_run(tmp_path / "run", [], [])) == []
    # One step is no curve yet, but the main picture is begun.
    begun = charts(_run(tmp_path / "begun", _steps(1, PAIR_STEP), []))
    assert [one.title for one in begun] == ["Change of the answers’ log-probability"]


def test_a_long_training_is_thinned(tmp_path: Path) -> None:
    found = charts(_run(tmp_path / "run", _steps(2_500, PAIR_STEP), []))
    assert {len(one.points) for chart in found for one in chart.series} == {834}
    points = curve_points(dict.fromkeys(range(2_500), 1.0))
    assert len(points) <= MOST_POINTS and points[-1] == (2_499, 1.0)


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [{"step": 1, "pairs": 2, "loss": "x"}], [])
    with pytest.raises(DataError, match=r"train_log\.jsonl"):
        charts(run)


def test_values_that_are_no_numbers_are_gaps() -> None:
    points = curve_points({1: 1.0, 2: float("nan"), 3: float("inf")}, 100.0)
    assert points == ((1, 100.0), (2, None), (3, None))


def test_data_of_the_figure_can_be_read_back() -> None:
    chart = ChartData(title='a "b" <c> &', series=())
    drawn = str(figure(chart))
    assert '<figure class="chart" data-chart="{&#34;title&#34;' in drawn
    assert "<c>" not in drawn


def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", [], [], {"epochs": "many"})
    with pytest.raises(DataError, match=r"config\.json: .*\n.*train\.epochs"):
        charts(run)
