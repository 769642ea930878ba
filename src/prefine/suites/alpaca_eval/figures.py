"""The metrics of AlpacaEval's annotations."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prefine.errors import ConfigError, DataError
from prefine.metrics.texts.screens import empty_outputs, identical_outputs, verdict_like_outputs
from prefine.metrics.win_rates.length_control import length_controlled_win_rate
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.metrics.win_rates.win_rates import preference_rates
from prefine.suites.alpaca_eval.calibration import read_calibration_at
from prefine.suites.alpaca_eval.files import (
    AlpacaRows,
    read_annotation_table,
    read_annotations,
    read_model_outputs,
    rows_for_length_control,
)
from prefine.suites.figures import SAMPLES, Figures


class Extras(NamedTuple):
    """Files that AlpacaEval's annotations may need: options of the command, by name."""

    outputs: Path | None = None
    baseline_outputs: Path | None = None
    calibration: tuple[Path, ...] = ()


def figures(path: Path, extras: Extras) -> Iterator[Figures]:
    """The figures of the model of an annotations.json."""
    if extras.calibration and extras.baseline_outputs is None:
        raise ConfigError(
            "--calibration counts instructions in the benchmark's order, which annotations do not "
            "say: give --baseline-outputs, the baseline's model_outputs.json, too"
        )
    outputs, baseline = (
        None
        if file is None
        else {prompt.text: answer for prompt, answer in read_model_outputs(file)}
        for file in (extras.outputs, extras.baseline_outputs)
    )
    calibration = read_calibration_at(extras.calibration) if extras.calibration else None
    if (
        calibration is not None
        and baseline is not None
        and len(baseline) != len(calibration.difficulty)
    ):
        raise DataError(
            f"{extras.baseline_outputs}: {len(baseline)} instructions, but the calibration has "
            f"{len(calibration.difficulty)}; give both of one benchmark"
        )
    annotations = read_annotations(path, outputs=outputs, baseline_outputs=baseline)
    rows = rows_for_length_control(
        annotations, instructions=None if baseline is None else list(baseline)
    )
    texts = {one.prompt.id: one.model.text for one in annotations}
    notes = [
        f"{len(screen.caught):,} of {len(texts):,} {what}"
        for what, screen in (
            ("answers are the same text as another one", identical_outputs(texts)),
            ("answers hold text like a judge's or to a judge", verdict_like_outputs(texts)),
            ("answers are empty", empty_outputs(texts)),
        )
        if screen.caught
    ]
    missing = 0 if baseline is None else len(baseline) - len(annotations)
    if missing > 0:
        notes.append(
            f"{missing:,} of {missing + len(annotations):,} instructions of the benchmark are not "
            "in the file"
        )
    first = annotations[0]
    yield _preferences(
        f"{first.model.model} against {first.baseline.model}", rows, calibration, notes
    )


def table_figures(path: Path, extras: Extras) -> Iterator[Figures]:
    """The figures of each model in a table of lengths and preferences."""
    calibration = read_calibration_at(extras.calibration) if extras.calibration else None
    table = read_annotation_table(path)
    everything = {id_ for rows in table.values() for id_ in rows.ids}
    for model, rows in table.items():
        absent = len(everything - set(rows.ids))
        of_other_models = (
            f"{absent:,} of the {len(everything):,} instructions of this file are "
            "not among this model's"
        )
        yield _preferences(model, rows, calibration, [of_other_models] if absent else [])


def _preferences(
    of: str, rows: AlpacaRows, calibration: AlpacaCalibration | None, notes: Sequence[str]
) -> Figures:
    try:
        rates = preference_rates(rows.preferences)
    except ValueError as error:
        raise ValueError(f"{of}: {error}") from error
    metrics = [rates.win_rate, rates.discrete_win_rate]
    if rates.decided_win_rate is not None:
        metrics.append(rates.decided_win_rate)
    metrics.append(rates.draw_rate)
    if all(value in (0, 0.5) for value in rows.preferences if value is not None):
        notes = [
            *notes,
            "no answer of the model is preferred: preferences are in [1, 2], and 0 and 1.5 are "
            "draws",
        ]
    noted = [*notes, f"{rates.wins:,} wins, {rates.losses:,} losses, {rates.draws:,} draws"]
    try:
        controlled = length_controlled_win_rate(
            rows.preferences,
            rows.model_lengths,
            rows.baseline_lengths,
            index=rows.ids,
            calibration=calibration,
            samples=SAMPLES,
        )
    except ValueError as error:
        if calibration is not None:
            raise ValueError(f"{of}: {error}") from error
        # The other rates exist; this one does not, and says why.
        noted.append(f"no length-controlled win rate: {error}")
        if rates.missing:
            noted.append(f"{rates.missing:,} rows without an annotation are in no rate")
    else:
        metrics.insert(1, controlled.win_rate)
        noted += controlled.warnings
        if controlled.calibration is not None:
            noted.append(f"calibration {controlled.calibration}, C = {controlled.strength}")
    return Figures(of, tuple(metrics), tuple(noted))
