"""AlpacaEval 2 from real annotations, against the numbers that were published.

python benchmarks/evaluation_alpaca.py
"""

import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from line import Line
from prefine.metrics.win_rates.length_control import (
    LengthControl,
    Weights,
    controlled_against,
    length_controlled_win_rate,
    predicted_win_rate,
)
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.metrics.win_rates.win_rates import DRAW, preference_rates, win_rate
from prefine.suites.alpaca_eval.calibration import read_calibration_folder
from prefine.suites.alpaca_eval.files import AlpacaRows, read_annotation_table
from prefine.suites.reading import rows_of

INCONSISTENT = ("dbrx-instruct", "NullModel")
"""Published numbers that contradict their own weights."""

ALL_ROWS = 805

Published = dict[str, dict[str, str]]


def plain(annotations: dict[str, AlpacaRows], published: Published) -> Iterator[Line]:
    """Everything that needs no regression."""
    errors: dict[str, list[float]] = {}
    for model, row in published.items():
        rates = preference_rates(annotations[model].preferences)
        found = {
            "win_rate": rates.win_rate.value,
            "standard_error": rates.win_rate.standard_error or 0.0,
            "discrete_win_rate": rates.discrete_win_rate.value,
            "n_wins": rates.wins,
            "n_wins_base": rates.losses,
            "n_draws": rates.draws,
            "n_total": rates.win_rate.n,
        }
        # The published mean length is that of all answers, also of those whose rows are not there.
        if len(annotations[model].ids) == ALL_ROWS:
            found["avg_length"] = int(np.mean(annotations[model].model_lengths))
        for name, value in found.items():
            errors.setdefault(name, []).append(abs(value - float(row[name])))
    for name, each in errors.items():
        yield Line(
            f"{name}, {len(each)} models",
            f"largest error {max(each):.1e}, wanted 1e-9",
            max(each) <= 1e-9,
        )


def length_controlled(
    annotations: dict[str, AlpacaRows], published: Published, calibration: AlpacaCalibration
) -> Iterator[Line]:
    """The regression, aligned by row as the published numbers are; C chosen, and C given."""
    chosen, given, seconds = {}, {}, {}
    for model, row in published.items():
        began = time.process_time()
        found = controlled(annotations[model], calibration, alignment="row")
        seconds[model] = time.process_time() - began
        chosen[model] = abs(found.win_rate.value - float(row["length_controlled_winrate"]))
        if row["C_published_inferred"]:
            found = controlled(
                annotations[model],
                calibration,
                alignment="row",
                strength=float(row["C_published_inferred"]),
            )
            given[model] = abs(found.win_rate.value - float(row["length_controlled_winrate"]))
    for what, errors, most in (
        ("C by cross-validation", chosen, 0.15),
        ("the published C", given, 0.02),
    ):
        median = float(np.median(list(errors.values())))
        figure = (
            f"largest error {_largest(errors)}, wanted {most}; median {median:.4f}, wanted .005"
        )
        ok = max(errors.values()) <= most and median <= 0.005
        yield Line(f"LC win rate, {what}, {len(errors)} models", figure, ok)
    slowest = max(seconds.values())
    yield Line(
        "LC with cross-validation, one core, slowest model",
        f"{slowest:.3f} s, wanted .3",
        slowest <= 0.3,
    )
    began = time.process_time()
    found = controlled(annotations["claude-2"], calibration, samples=1000)
    yield Line(
        "the same with 1,000 refits for the interval", f"{time.process_time() - began:.2f} s", None
    )
    low, high = found.win_rate.interval or (np.nan, np.nan)
    yield Line(
        "claude-2 with its interval", f"{found.win_rate.value:.2f} %, {low:.2f} to {high:.2f}", None
    )


def by_instruction(
    annotations: dict[str, AlpacaRows], published: Published, calibration: AlpacaCalibration
) -> Iterator[Line]:
    """The effect of joining difficulties by row on models with rows left out."""
    for model in published:
        rows = annotations[model]
        if list(rows.ids) != list(range(len(rows.ids))):
            by_row, right = (
                controlled(rows, calibration, alignment=alignment).win_rate.value
                for alignment in ("row", "instruction_id")
            )
            figure = f"{by_row:.2f} by row, {right:.2f} by instruction"
            yield Line(f"LC of {model} ({len(rows.ids)} rows)", figure, None)


def order(folder: Path, annotations: dict[str, AlpacaRows], published: Published) -> Iterator[Line]:
    """The effect that the order in which the judge saw a pair has on difficulties and win rates."""
    table = {
        int(row.values["instruction_id"]): row.values
        for row in rows_of(folder / "instruction_difficulty.parquet")
    }
    first = {id_: bool(values["model_shown_first"]) for id_, values in table.items()}
    difficulty = np.array([values["difficulty"] for values in table.values()])
    explained = float(np.corrcoef(difficulty, list(first.values()))[0, 1]) ** 2
    yield Line("of the difficulties' variance, order explains", f"{100 * explained:.1f} %", None)
    gaps = []
    for model in published:
        y = np.array(annotations[model].preferences, dtype=np.float64)
        shown_first = np.array([first[int(id_)] for id_ in annotations[model].ids])
        if (y != DRAW).any():
            gaps.append(100 * float(y[shown_first].mean() - y[~shown_first].mean()))
    yield Line(
        f"win rate shown first minus second, mean of {len(gaps)}",
        f"{np.mean(gaps):+.1f} points",
        None,
    )


def from_weights(
    annotations: dict[str, AlpacaRows], published: Published, calibration: AlpacaCalibration
) -> Iterator[Line]:
    """The figures that published weights give, difficulties by row as they were fitted."""
    errors = {}
    for model, row in published.items():
        if row["theta_len"] and model not in INCONSISTENT:
            weights = Weights(
                *(float(row[name]) for name in ("theta_len", "psi_difficulty", "phi_const"))
            )
            difficulty = calibration.difficulty[: len(annotations[model].ids)]
            value = predicted_win_rate(weights, difficulty).value
            errors[model] = abs(value - float(row["length_controlled_winrate"]))
    yield Line(
        f"LC of published weights, {len(errors)} models",
        f"largest error {_largest(errors)}, wanted 1e-7; not {' nor '.join(INCONSISTENT)}",
        max(errors.values()) <= 1e-7,
    )


def properties(
    annotations: dict[str, AlpacaRows], published: Published, calibration: AlpacaCalibration
) -> Iterator[Line]:
    """Changes that must not matter, on every model."""
    permuted = copied = swapped = 0
    rng = np.random.default_rng(0)
    for model in published:
        rows = annotations[model]
        order = rng.permutation(len(rows.ids))
        shuffled = taken(rows, order.tolist())
        one, other = (controlled(each, calibration, samples=20) for each in (rows, shuffled))
        permuted += (one.win_rate, one.weights) == (other.win_rate, other.weights)
        y = np.array(rows.preferences, dtype=np.float64)
        rates, twice, turned = (
            preference_rates(each) for each in (y, np.concatenate([y, y]), 1 - y)
        )
        copied += (
            abs(twice.win_rate.value - rates.win_rate.value) < 1e-9
            and twice.discrete_win_rate.value == rates.discrete_win_rate.value
        )
        swapped += (
            abs(rates.win_rate.value + turned.win_rate.value - 100) < 1e-9
            and abs(rates.discrete_win_rate.value + turned.discrete_win_rate.value - 100) < 1e-9
            and (rates.wins, rates.draws) == (turned.losses, turned.draws)
        )
    total = len(published)
    yield Line(
        "rows in another order: same LC, same interval", f"{permuted} of {total}", permuted == total
    )
    yield Line("every prompt twice: same win rates", f"{copied} of {total}", copied == total)
    yield Line("models swapped: win rates add up to 100", f"{swapped} of {total}", swapped == total)
    itself = controlled(annotations["gpt4_1106_preview"], calibration, samples=100)
    claude = controlled(annotations["claude-2"], calibration, samples=100)
    against = controlled_against(claude, claude).value
    yield Line(
        "the baseline against itself",
        f"{itself.win_rate.value:g}, {itself.win_rate.interval}",
        itself.win_rate.value == 50,
    )
    yield Line("a model against itself as other baseline", f"{against:g}", against == 50)


def bad_input(
    annotations: dict[str, AlpacaRows], published: Published, calibration: AlpacaCalibration
) -> Iterator[Line]:
    """Input that must be refused with a reason, or counted."""
    del published
    rows = annotations["claude-2"]
    y, model, baseline, ids = rows
    places = list(range(len(y)))
    other = controlled(taken(rows, places[:700]), calibration, samples=2)
    whole = controlled(rows, calibration, samples=2)
    cases: dict[str, Callable[[], object]] = {
        "different prompt sets": lambda: controlled_against(whole, other),
        "a row twice": lambda: controlled(taken(rows, [*places, 0]), calibration),
        "a length that is NaN": lambda: length_controlled_win_rate(
            y, [np.nan, *model[1:]], baseline, index=ids, calibration=calibration
        ),
        "length differences all the same": lambda: controlled(
            AlpacaRows(y, model, model, ids), calibration
        ),
        "one row": lambda: controlled(taken(rows, [0]), calibration),
        "an unread verdict (-1)": lambda: controlled(
            AlpacaRows([-1.0, *y[1:]], model, baseline, ids), calibration
        ),
        "no annotation at all": lambda: preference_rates([None] * 5),
        "NaN given to win_rate": lambda: win_rate([0.5, np.nan]),
    }
    for what, case in cases.items():
        try:
            case()
        except ValueError as error:
            yield Line(f"refused: {what}", str(error)[:110], True)
        else:
            yield Line(f"refused: {what}", "taken without a word", False)
    partly = controlled(AlpacaRows([None, *y[1:]], model, baseline, ids), calibration)
    yield Line(
        "counted: a row without annotation",
        f"n = {partly.win_rate.n}, missing = {partly.missing}; {partly.warnings[-1]}",
        (partly.win_rate.n, partly.missing) == (804, 1),
    )
    null = controlled(annotations["NullModel"], calibration, alignment="row")
    yield Line("counted: NullModel's one text", "; ".join(null.warnings), bool(null.warnings))


def controlled(
    rows: AlpacaRows,
    calibration: AlpacaCalibration,
    *,
    alignment: str = "instruction_id",
    strength: float | None = None,
    samples: int = 0,
) -> LengthControl:
    """The length-controlled win rate of one model."""
    return length_controlled_win_rate(
        rows.preferences,
        rows.model_lengths,
        rows.baseline_lengths,
        index=rows.ids,
        calibration=calibration,
        alignment="row" if alignment == "row" else "instruction_id",
        strength=strength,
        samples=samples,
    )


def taken(rows: AlpacaRows, places: list[int]) -> AlpacaRows:
    """The rows at these places."""
    return AlpacaRows(
        [rows.preferences[i] for i in places],
        [rows.model_lengths[i] for i in places],
        [rows.baseline_lengths[i] for i in places],
        [int(rows.ids[i]) for i in places],
    )


def rows() -> Iterator[Line]:
    """All of them."""
    data = os.environ.get("PREFINE_TEST_DATA")
    if not data:
        yield Line(
            "AlpacaEval 2 on real annotations", "not run: PREFINE_TEST_DATA is not set", False
        )
        return
    folder = Path(data) / "alpaca_eval_dev"
    annotations = read_annotation_table(folder / "annotations.parquet")
    calibration = read_calibration_folder(folder)
    with (folder / "expected.csv").open(encoding="utf-8", newline="") as table:
        published = {row["model"]: row for row in csv.DictReader(table)}
    yield from plain(annotations, published)
    yield from order(folder, annotations, published)
    for part in (length_controlled, by_instruction, from_weights, properties, bad_input):
        yield from part(annotations, published, calibration)


def _largest(errors: dict[str, float]) -> str:
    model = max(errors, key=lambda one: errors[one])
    return f"{errors[model]:.2g} ({model})"


if __name__ == "__main__":
    for line in rows():
        print(line, flush=True)
