"""The length-controlled win rate: published numbers, properties, what is refused and what is
said.
"""

import csv
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from optimality import optimality_gap
from prefine.metrics.win_rates.length_control import (
    Weights,
    controlled_against,
    length_controlled_win_rate,
    predicted_win_rate,
)
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.suites.alpaca_eval.calibration import read_calibration_folder
from prefine.suites.alpaca_eval.files import read_annotation_table

N = 120


def calibration(seed=0, instructions=N):
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=instructions)
    gamed = np.tanh(rng.normal(size=2 * instructions))
    return AlpacaCalibration(
        difficulty,
        gamed,
        np.tile(difficulty, 2),
        expit(-1.5 * gamed + 0.8 * np.tile(difficulty, 2)),
    )


def evaluation(seed=0, theta=-1.5, psi=0.8, phi=0.4, n=N) -> dict[str, Any]:
    rng = np.random.default_rng(seed + 100)
    baseline = np.round(rng.lognormal(7.2, 0.5, n))
    model = np.round(baseline * rng.lognormal(0.1, 0.4, n))
    t = np.tanh((baseline - model) / np.std(baseline - model, ddof=1))
    p = expit(theta * t + psi * calibration(seed).difficulty[:n] + phi)
    return {
        "preferences": (rng.random(n) < p).astype(float),
        "model_lengths": model,
        "baseline_lengths": baseline,
        "index": np.arange(n),
        "calibration": calibration(seed),
    }


def length_feature(given):
    longer = given["baseline_lengths"] - given["model_lengths"]
    return np.tanh(longer / np.std(longer, ddof=1))


def all_rows(given):
    """Features and labels, gamed rows first, and how many those are."""
    features, labels = given["calibration"].gamed_rows()
    own = np.column_stack([length_feature(given), given["calibration"].difficulty, np.ones(N)])
    x = np.concatenate([np.column_stack([features, np.zeros(len(labels))]), own])
    return x, np.concatenate([labels, given["preferences"]]), len(labels)


def run(given, **options):
    return length_controlled_win_rate(**(given | {"samples": 50} | options))


@pytest.fixture(scope="module")
def published(real_data):
    folder = real_data / "alpaca_eval_dev"
    with (folder / "expected.csv").open(encoding="utf-8", newline="") as table:
        rows = {row["model"]: row for row in csv.DictReader(table)}
    return (
        rows,
        read_annotation_table(folder / "annotations.parquet"),
        read_calibration_folder(folder),
    )


def real(published, model, **options):
    _, annotations, found = published
    rows = annotations[model]
    given = {"index": rows.ids, "calibration": found, "samples": 0}
    return length_controlled_win_rate(
        rows.preferences, rows.model_lengths, rows.baseline_lengths, **(given | options)
    )


def test_published_numbers_with_cross_validation_and_with_the_published_strength(published):
    chosen, given = [], []
    for model, row in published[0].items():
        expected = float(row["length_controlled_winrate"])
        found = real(published, model, alignment="row")
        chosen.append(abs(found.win_rate.value - expected))
        if row["lc_standard_error"]:
            assert found.deviation == pytest.approx(float(row["lc_standard_error"]), abs=0.01)
        if row["C_published_inferred"]:
            strength = float(row["C_published_inferred"])
            found = real(published, model, alignment="row", strength=strength)
            given.append(abs(found.win_rate.value - expected))
    assert (len(chosen), len(given)) == (24, 22)
    assert max(chosen) <= 0.15
    assert np.median(chosen) <= 0.005
    assert max(given) <= 0.02


def test_published_weights_give_the_published_number(published):
    for model, row in published[0].items():
        if row["theta_len"] and model not in ("dbrx-instruct", "NullModel"):
            weights = Weights(
                *(float(row[name]) for name in ("theta_len", "psi_difficulty", "phi_const"))
            )
            found = predicted_win_rate(
                weights, published[2].difficulty[: len(published[1][model].ids)]
            )
            assert found.value == pytest.approx(
                float(row["length_controlled_winrate"]), abs=1e-7
            ), model


def test_rows_that_are_left_out_shift_difficulties_only_by_row(published):
    for model, least in (("alpaca-7b_verbose", 1.0), ("text_davinci_001", 2.0)):
        by_row, by_id = (
            real(published, model, alignment=how).win_rate.value
            for how in ("row", "instruction_id")
        )
        assert abs(by_row - by_id) > least
    same = [
        real(published, "claude-2", alignment=how).win_rate.value
        for how in ("row", "instruction_id")
    ]
    assert same[0] == pytest.approx(same[1], abs=1e-9)


def test_a_constant_output_is_called_one(published):
    found = real(published, "NullModel")
    assert any("same length" in warning for warning in found.warnings)


def test_the_fit_is_a_minimum_and_the_truth_is_near():
    given = evaluation(n=N)
    found = run(given, samples=300)
    x, y, gamed = all_rows(given)
    w = found.strength * np.concatenate([np.full(gamed, 0.1), np.ones(N)])
    assert optimality_gap(x, y, w, found.weights[:3])[0] < 1e-10
    truth = 100 * expit(0.8 * given["calibration"].difficulty + 0.4).mean()
    low, high = found.win_rate.interval
    assert low < truth < high
    assert low < found.win_rate.value < high
    assert (found.win_rate.n, found.missing, found.warnings) == (N, 0, ())
    assert found.win_rate.name == "length_controlled_win_rate"
    assert found.calibration == given["calibration"].hash


def test_the_interval_refits_on_every_sample():
    given = evaluation(3)
    found = run(given, samples=40, strength=2.0)
    assert found.draws.shape == (40, 4)
    assert (found.draws[:, :3].std(axis=0) > 0.01).all()
    # One sample by hand: each instruction as often as it was drawn.
    drawn = np.bincount(np.random.default_rng(0).integers(0, N, (40, N))[7], minlength=N)
    x, y, gamed = all_rows(given)
    w = 2.0 * np.concatenate([np.full(gamed, 0.1), drawn])
    assert optimality_gap(x, y, w, found.draws[7, :3])[0] < 1e-9


def test_the_order_of_rows_does_not_matter():
    given = evaluation(1)
    order = np.random.default_rng(0).permutation(N)
    columns = ("preferences", "model_lengths", "baseline_lengths", "index")
    shuffled = given | {name: given[name][order] for name in columns}
    one, other = run(given), run(shuffled)
    assert (one.win_rate, one.weights, one.ids) == (other.win_rate, other.weights, other.ids)


def test_inputs_are_left_alone_and_the_seed_decides():
    given = evaluation(2)
    before = {
        name: np.copy(value) for name, value in given.items() if isinstance(value, np.ndarray)
    }
    first, second = run(given), run(given)
    assert first.win_rate == second.win_rate
    assert run(given, seed=1).win_rate.interval != first.win_rate.interval
    assert all((given[name] == value).all() for name, value in before.items())


def test_the_baseline_against_itself_is_50():
    given = evaluation() | {"preferences": np.full(N, 0.5)}
    found = run(given | {"model_lengths": given["baseline_lengths"]})
    assert (found.win_rate.value, found.win_rate.interval, found.strength) == (50, (50, 50), None)
    assert found.weights == Weights(0, 0, 0)
    assert found.warnings == ()


def test_other_baselines():
    given = evaluation(4)
    model = run(given)
    other = run(given | {"preferences": evaluation(5)["preferences"]})
    itself = run(
        given | {"preferences": np.full(N, 0.5), "model_lengths": given["baseline_lengths"]}
    )
    forth, back = controlled_against(model, other), controlled_against(other, model)
    assert forth.value + back.value == pytest.approx(100)
    assert forth.interval[0] + back.interval[1] == pytest.approx(100)
    assert controlled_against(model, model).value == 50
    against_baseline = controlled_against(model, itself)
    assert against_baseline.value == pytest.approx(model.win_rate.value)
    assert against_baseline.interval == pytest.approx(model.win_rate.interval)
    predicted = predicted_win_rate(model.weights, model.difficulty, against=other.weights)
    assert predicted.value == pytest.approx(forth.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "different bootstrap seeds"),
        ({"samples": 20}, "different numbers of bootstrap samples"),
        ({"calibration": None}, "different calibrations"),
        ({"alignment": "row"}, "different alignments"),
        ({"shown_first": np.arange(N) % 2 == 0}, "different kinds of control"),
    ],
)
def test_other_baselines_need_the_same_evaluation(change, message):
    given = evaluation()
    with pytest.raises(ValueError, match=message):
        controlled_against(run(given), run(given, **change))


def test_other_baselines_need_the_same_prompts():
    given = evaluation()
    fewer = given | {n: v[:50] for n, v in given.items() if isinstance(v, np.ndarray)}
    with pytest.raises(ValueError, match=r"different instructions \(120 and 50 rows\)"):
        controlled_against(run(given), run(fewer))


def test_without_a_calibration_the_name_says_so():
    given = evaluation() | {"calibration": None, "index": [f"id{i:03}" for i in range(N)]}
    found = run(given)
    assert found.win_rate.name == "length_controlled_win_rate_uncalibrated"
    assert (found.calibration, found.weights.difficulty) == (None, 0)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert found.win_rate.value == pytest.approx(100 * expit(np.array(found.weights.constant)))
    assert found.strength == 1e4


def test_the_order_shown_is_taken_out():
    rng = np.random.default_rng(9)
    given, first = evaluation(6, n=N), rng.random(N) < 0.9
    t = length_feature(given)
    order = np.where(first, 0.5, -0.5)
    given["preferences"] = expit(
        -1.5 * t + 0.8 * given["calibration"].difficulty + 0.4 - 2.0 * order
    )
    found = run(given, shown_first=first)
    assert found.win_rate.name == "length_and_order_controlled_win_rate"
    assert found.weights.shown_first == pytest.approx(-2.0, abs=0.4)
    truth = 100 * expit(0.8 * given["calibration"].difficulty + 0.4).mean()
    assert found.win_rate.value == pytest.approx(truth, abs=4)
    assert run(given).win_rate.value < truth - 8


def test_missing_annotations_are_counted_and_far_rates_said():
    given = evaluation()
    given["preferences"][:3] = np.nan
    found = run(given)
    assert (found.win_rate.n, found.missing, found.plain.n) == (N - 3, 3, N - 3)
    assert found.warnings == ("3 of 120 rows have no annotation",)
    # All of its wins come with length: much worse at equal lengths.
    longer = evaluation(7)
    longer["baseline_lengths"] = np.full(N, 1000)
    longer["model_lengths"] = np.where(np.arange(N) < 100, 1400, 600)
    longer["preferences"] = (np.arange(N) < 100).astype(float)
    found = run(longer, calibration=None, strength=100.0)
    assert "far from the plain" in found.warnings[0]
    assert found.win_rate.value < found.plain.value - 10


def test_all_lost_is_said():
    found = run(evaluation() | {"preferences": np.zeros(N)})
    assert found.win_rate.value < 5
    assert any("all preferences are 0" in warning for warning in found.warnings)


def _but(**changes):
    return lambda given: given | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _but(preferences=[0.5] * (N - 1)),
            "numbers of rows differ: 119 preferences, 120 model_lengths",
        ),
        (lambda g: g | {"index": [0, *range(N - 1)]}, "index: 0 is there twice, at 0 and 1"),
        (
            lambda g: g | {"index": [N + 5, *range(N - 1)]},
            "125 at 119 is no instruction of the calibration",
        ),
        (_but(index=[f"{i}" for i in range(N)]), "'0' at 0 is no instruction of the calibration"),
        (
            lambda g: g | {"preferences": [1.5, *g["preferences"][1:]]},
            r"preferences must be in \[0, 1\]",
        ),
        (
            lambda g: g | {"model_lengths": [np.nan, *g["model_lengths"][1:]]},
            "model_lengths must be finite numbers, got nan at index 0",
        ),
        (
            lambda g: g | {"baseline_lengths": [-1, *g["model_lengths"][1:]]},
            "baseline_lengths must not be negative",
        ),
        (
            lambda g: g | {"model_lengths": g["baseline_lengths"]},
            "is 0 in all 120 rows: the effect of length cannot",
        ),
        (lambda g: g | {"model_lengths": g["baseline_lengths"] + 3}, "is -3 in all 120 rows"),
        (_but(preferences=[0.5] + [None] * (N - 1)), "at least two annotated rows, got 1 in 120"),
        (_but(shown_first=[True] * N), "shown_first is True in all 120 rows"),
        (_but(shown_first=[0.5] * N), "shown_first must be 120 truth values"),
        (_but(strength=0.0), "strength must be positive"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        run(change(evaluation()))


def test_one_row_is_refused():
    given = {"preferences": [1.0], "model_lengths": [10], "baseline_lengths": [20], "index": [0]}
    with pytest.raises(ValueError, match="at least two annotated rows, got 1 in 1"):
        run(given | {"calibration": calibration()})


def test_calibrations_are_frozen_copies_with_a_hash():
    rng = np.random.default_rng(0)
    difficulty, gamed, labels = rng.normal(size=5), np.tanh(rng.normal(size=10)), rng.random(10)
    one = AlpacaCalibration(difficulty, gamed, np.tile(difficulty, 2), labels)
    same = AlpacaCalibration(difficulty.copy(), gamed, np.tile(difficulty, 2), labels)
    assert one.hash == same.hash
    other = AlpacaCalibration(difficulty, gamed, np.tile(difficulty, 2), 1 - labels)
    assert other.hash != one.hash
    difficulty[0] = 9
    assert one.difficulty[0] != 9
    with pytest.raises(ValueError, match="read-only"):
        one.difficulty[0] = 1
    holes = AlpacaCalibration(difficulty, gamed, np.tile(difficulty, 2), [np.nan, *labels[1:]])
    assert len(holes.gamed_rows()[1]) == 9
    assert holes.hash != one.hash


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            ([0.0, np.nan], [0.0], [0.0], [0.5]),
            "difficulty must be finite numbers, got nan at index 1",
        ),
        (
            ([0.0], [0.0, 0.1], [0.0], [0.5]),
            "numbers of rows differ: 2 gamed_length, 1 gamed_difficulty, 1 gamed_preference",
        ),
        (
            ([0.0], [1.5], [0.0], [0.5]),
            r"gamed_length must be in \[-1, 1\] \(tanh taken\), got 1.5 at index 0",
        ),
        (([0.0], [0.5], [0.0], [1.5]), r"gamed_preference must be in \[0, 1\]"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        AlpacaCalibration(*arrays)
