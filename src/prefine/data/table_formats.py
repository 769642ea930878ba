"""Rows of files of tables: CSV, Parquet and Arrow."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from prefine.data.compression import check_unpacked, opened
from prefine.data.formats import CONVERT, MAX_LINE_BYTES
from prefine.data.layouts.protocol import SourceRow, show
from prefine.errors import DataError

_ROWS_AT_A_TIME = 1024
# Cells of a CSV file are texts; an empty one in these columns is a missing value.
_OPTIONAL = {"weight", "score_gap", "p_chosen", "tools", "chat_template_kwargs"}


def csv_rows(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a CSV file."""
    # The module's own limit is 128 KiB, which one long answer exceeds.
    csv.field_size_limit(MAX_LINE_BYTES)
    with opened(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        number = 0
        try:
            names = next(reader, [])
            _check_header(names, f"{path}, line 1")
            for cells in filter(None, reader):
                where = f"{path}, row {number} (line {reader.line_num})"
                if len(cells) != len(names):
                    raise DataError(
                        f"{where}: {len(cells)} cells for {len(names)} columns "
                        f"({', '.join(names)}); quote cells that hold commas or line ends"
                    )
                columns = zip(names, cells, strict=True)
                yield SourceRow(where, {name: _cell(name, cell) for name, cell in columns})
                number += 1
        except UnicodeDecodeError as error:
            after = f", after row {number - 1}" if number else ""
            raise DataError(f"{path}{after}: not UTF-8 ({error.reason}); {CONVERT}") from error
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: not valid CSV ({error}); a cell with commas, "
                "quotes or line ends stands between quotes, and its own quotes are doubled"
            ) from error


def _check_header(names: list[str], where: str) -> None:
    """Raise DataError if columns have no names, the same ones, or other separators than commas."""
    if len(set(names)) < len(names) or "" in names:
        remedy = "rename or drop columns"
        if names[:1] == [""]:
            remedy = "pandas writes its index without a name: use to_csv(…, index=False)"
        raise DataError(
            f"{where}: every column needs a name of its own, got {show(names)}; {remedy}"
        )
    separator = next((mark for mark in (";", "\t", "|") if mark in "".join(names)), None)
    if len(names) == 1 and separator is not None:
        raise DataError(
            f"{where}: columns are separated by commas, and these by {separator!r} "
            f"({show(names[0])}); write the file with commas, as pandas' to_csv does"
        )


def _cell(name: str, cell: str) -> str | None:
    return None if not cell and name in _OPTIONAL else cell


def parquet_rows(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        with closing(pq.ParquetFile(path)) as parquet:
            _check_names(parquet.schema_arrow.names, path)
            yield from parquet.iter_batches(batch_size=_ROWS_AT_A_TIME)

    return _rows_of_batches(batches(), path, "Parquet")


def arrow_rows(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of an IPC file, or of the stream that `datasets` writes."""
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.OSFile(str(path)) as source:
            try:
                file = pa.ipc.open_file(source)
                found: Iterable[Any] = map(file.get_batch, range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                found = pa.ipc.open_stream(source)
            for batch in found:
                _check_names(batch.schema.names, path)
                for start in range(0, len(batch), _ROWS_AT_A_TIME):
                    yield batch.slice(start, _ROWS_AT_A_TIME)

    return _rows_of_batches(batches(), path, "Arrow")


def _check_names(names: list[str], path: Path) -> None:
    """Raise DataError if two columns have one name: a row would keep the last of them."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: {' and '.join(map(repr, twice))} is the name of several columns; rename or "
            "drop all but one"
        )


def _rows_of_batches(batches: Iterable[Any], path: Path, kind: str) -> Iterator[SourceRow]:
    import pyarrow as pa

    check_unpacked(path, kind)
    number = 0
    try:
        for batch in batches:
            for item in batch.to_pylist():
                yield SourceRow(f"{path}, row {number}", as_json(item))
                number += 1
    except (pa.ArrowInvalid, OSError) as error:
        after = f", after row {number - 1}" if number else ""
        raise DataError(
            f"{path}{after}: not readable as {kind} ({error}); write the file again"
        ) from error


def as_json(value: Any) -> Any:
    """Return a value of Arrow or Python as JSON has it: dates and decimals as text, NaN as None.

    What JSON cannot hold, such as bytes, stays what it is.
    """
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    # Arrays, and the numbers in them.
    return as_json(value.tolist()) if hasattr(value, "tolist") else value
