"""The calibration of AlpacaEval 2's length control, from upstream's files or from tables."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefine.data.formats import decode_utf8
from prefine.data.layouts.protocol import SourceRow
from prefine.errors import ConfigError, DataError
from prefine.metrics.win_rates.length_data import AlpacaCalibration
from prefine.suites.reading import number_field, rows_of

DIFFICULTY, GAMED = "instruction_difficulty", "gamed_baselines"


def read_calibration(difficulty: Path, gamed: Path) -> AlpacaCalibration:
    """The calibration in upstream's `instruction_difficulty.csv` and `df_gamed.csv`.

    Of the first, the first column is the instruction's number; the second has `std_delta_len` (tanh
    not yet taken), `instruction_difficulty` and `preference` in [0, 1], where an empty cell is no
    annotation.

    Raises:
        ConfigError: There is no such file.
        DataError: A column is missing, a value is no number, or an instruction is missing or there
            twice.
    """
    rows = _cells(difficulty)
    (first, *_) = rows[0].values
    by_id = _by_id(rows, first, "instruction_difficulty", difficulty)
    gamed_rows = _cells(gamed)
    return _calibration(
        by_id,
        np.tanh([number_field(row, "std_delta_len") for row in gamed_rows]).tolist(),
        [number_field(row, "instruction_difficulty") for row in gamed_rows],
        [_label(row, "preference") for row in gamed_rows],
        gamed,
    )


def read_calibration_folder(folder: Path) -> AlpacaCalibration:
    """The calibration in a folder of two tables.

    They are `instruction_difficulty.parquet` and `gamed_baselines.parquet`. The first has
    `instruction_id` and `difficulty`; the second `instruction_id`, `tanh_std_delta_len` and
    `surrogate_y`, labels that need only have the right sums.

    Raises:
        ConfigError: There is no such file.
        DataError: As for `read_calibration`.
    """
    path, gamed = folder / f"{DIFFICULTY}.parquet", folder / f"{GAMED}.parquet"
    by_id = _by_id(rows_of(path), "instruction_id", "difficulty", path)
    rows = rows_of(gamed)
    ids = [int(number_field(row, "instruction_id")) for row in rows]
    for row, id_ in zip(rows, ids, strict=True):
        if not 0 <= id_ < len(by_id):
            raise DataError(
                f"{row.where}: instruction_id {id_} has no difficulty in {path}; take both from "
                "one place"
            )
    return _calibration(
        by_id,
        [number_field(row, "tanh_std_delta_len") for row in rows],
        [by_id[id_] for id_ in ids],
        [_label(row, "surrogate_y") for row in rows],
        gamed,
    )


def read_calibration_at(paths: Sequence[Path]) -> AlpacaCalibration:
    """The calibration in a folder with either pair of files, or in upstream's two files.

    Raises:
        ConfigError: There are no such files.
        DataError: As for `read_calibration`.
    """
    if len(paths) == 2:
        return read_calibration(paths[0], paths[1])
    if len(paths) != 1 or not paths[0].is_dir():
        raise ConfigError(
            f"calibration {', '.join(map(str, paths))}: expected a folder, or "
            "instruction_difficulty.csv and "
            "df_gamed.csv, one after the other"
        )
    (folder,) = paths
    if (folder / f"{DIFFICULTY}.parquet").is_file():
        return read_calibration_folder(folder)
    return read_calibration(folder / f"{DIFFICULTY}.csv", folder / "df_gamed.csv")


def _calibration(
    difficulty: list[float],
    length: list[float],
    gamed_difficulty: list[float],
    label: list[float],
    path: Path,
) -> AlpacaCalibration:
    try:
        return AlpacaCalibration(
            np.array(difficulty),
            np.array(length),
            np.array(gamed_difficulty),
            np.array(label, dtype=np.float64),
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}; take the file from upstream again") from error


def _by_id(rows: list[SourceRow], id_name: str, name: str, path: Path) -> list[float]:
    found: dict[int, float] = {}
    for row in rows:
        id_ = int(number_field(row, id_name))
        if id_ in found:
            raise DataError(f"{row.where}: instruction {id_} is there twice; remove one")
        found[id_] = number_field(row, name)
    if sorted(found) != list(range(len(found))):
        missing = min(set(range(len(found))) - set(found))
        raise DataError(
            f"{path}: {len(found)} instructions, but none with number {missing}; restore the file"
        )
    return [found[id_] for id_ in range(len(found))]


def _label(row: SourceRow, name: str) -> float:
    if name in row.values and row.values[name] in (None, ""):
        return float("nan")
    return number_field(row, name)


def _cells(path: Path) -> list[SourceRow]:
    """The rows of a CSV file whose first column need not have a name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of upstream's file"
        ) from error
    text = decode_utf8(data.removeprefix(b"\xef\xbb\xbf"), str(path))
    table = list(csv.reader(io.StringIO(text, newline="")))
    if len(table) < 2:
        raise DataError(f"{path}: the file has no rows; take it from upstream again")
    names, *lines = table
    rows = []
    for place, cells in enumerate(line for line in lines if line):
        where = f"{path}, row {place}"
        if len(cells) != len(names):
            raise DataError(
                f"{where}: {len(cells)} cells for {len(names)} columns; take the file from "
                "upstream again"
            )
        rows.append(SourceRow(where, dict(zip(names, cells, strict=True))))
    return rows
