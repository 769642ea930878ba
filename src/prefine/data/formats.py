"""Rows of one file as they are: JSON Lines, JSON, CSV, Parquet or Arrow."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from prefine.data.compression import check_unpacked, opened
from prefine.data.layouts.protocol import SourceRow, show
from prefine.errors import DataError

Format = Literal["jsonl", "json", "csv", "parquet", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_LINE_BYTES = 64 * 1024 * 1024
_ROWS_AT_A_TIME = 1024
_FIRST_CHARACTERS = 80
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LIST = (
    "a file that is one list is JSON: let its name end in .json, or set format: json (--format "
    "json)"
)
_OBJECT = (
    "an object over several lines is JSON, not JSON Lines: put the objects into a list, in a file "
    "whose name ends in .json"
)
_CONVERT = "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
# Python writes these constants, which JSON does not have. NaN counts as a missing value.
_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}
# Cells of a CSV file are texts; an empty one in these columns is a missing value.
_OPTIONAL = {"weight", "score_gap", "p_chosen", "tools", "chat_template_kwargs"}


def decode_utf8(data: bytes, where: str) -> str:
    """Return the text of UTF-8 bytes; raise DataError with the place and the byte if it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8 ({data[error.start : error.start + 4]!r}); "
            f"{_CONVERT}"
        ) from error


def parse_json(text: str, where: str, *, remedy: str = "mend the file") -> Any:
    """Return the value of a JSON text; `remedy` is what a message advises where it is none.

    Raises:
        DataError: It is not valid, names a field twice, or holds text that no file can hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_CONSTANTS.get)
    # A number of thousands of digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not valid JSON ({error}): {text[:_FIRST_CHARACTERS].strip()!r}; {remedy}"
        ) from error
    if "\\ud" in text or "\\uD" in text:
        _check_surrogates(value, where)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} appears twice in one object; keep one")
    return values


def _check_surrogates(value: Any, where: str) -> None:
    """Raise DataError if a JSON escape left half of a surrogate pair, which no file can hold."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start + 20]
        raise DataError(
            f"{where}: half of a surrogate pair in {around!r}; the text was cut inside a character "
            "such as an emoji: repair or remove the row"
        ) from error


def _object_row(value: Any, where: str) -> SourceRow:
    if not isinstance(value, dict):
        raise DataError(
            f"{where}: expected an object with named fields, found {type(value).__name__} "
            f"{show(value)}"
        )
    return SourceRow(where, value)


def _jsonl(path: Path) -> Iterator[SourceRow]:
    # Lines end at \n only: texts contain U+2028 and the like, at which str.splitlines would cut.
    with opened(path) as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(
                    f"{where}: longer than {MAX_LINE_BYTES // 2**20} MiB; is this one JSON object "
                    "a line?"
                )
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.strip():
                text = decode_utf8(line, where)
                of_whole = {"[": _LIST, "{": _OBJECT} if number == 1 else {}
                remedy = of_whole.get(
                    text.strip(), "each line is one object: mend this one or remove it"
                )
                yield _object_row(parse_json(text, where, remedy=remedy), where)


def _json(path: Path) -> Iterator[SourceRow]:
    with opened(path) as file:
        content = file.read().removeprefix(_BYTE_ORDER_MARK)
    text = decode_utf8(content, str(path))
    try:
        value = parse_json(text, str(path))
    except DataError as error:
        if getattr(error.__cause__, "msg", "") == "Extra data":
            raise DataError(
                f"{path}: a JSON file holds one value, and here is another behind it; if every "
                "line is an object, set format: jsonl (--format jsonl)"
            ) from error
        raise
    if isinstance(value, dict) and value and all(isinstance(item, list) for item in value.values()):
        raise DataError(
            f"{path}: one object with lists ({', '.join(list(value)[:5])}), such as one for each "
            "split or column; a JSON file must hold a list of objects: write the wanted list to a "
            "file of its own"
        )
    if not isinstance(value, list):
        raise DataError(
            f"{path}: a JSON file must hold a list of objects, this one holds "
            f"{type(value).__name__} {show(value)}; give the file that has your rows"
        )
    for number, item in enumerate(value):
        yield _object_row(item, f"{path}, row {number}")


def _csv(path: Path) -> Iterator[SourceRow]:
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
            raise DataError(f"{path}{after}: not UTF-8 ({error.reason}); {_CONVERT}") from error
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


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


def _parquet(path: Path) -> Iterator[SourceRow]:
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        with closing(pq.ParquetFile(path)) as parquet:
            _check_names(parquet.schema_arrow.names, path)
            yield from parquet.iter_batches(batch_size=_ROWS_AT_A_TIME)

    return _rows_of_batches(batches(), path, "Parquet")


def _arrow(path: Path) -> Iterator[SourceRow]:
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


READERS: dict[Format, Callable[[Path], Iterator[SourceRow]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
}
