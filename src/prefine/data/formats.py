"""Rows of one file as they are: of JSON here, of other formats in `table_formats`."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from prefine.data.compression import opened
from prefine.data.layouts.protocol import SourceRow, show
from prefine.errors import DataError
from prefine.lazy import imported

Format = Literal["jsonl", "json", "csv", "parquet", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)
MAX_LINE_BYTES = 64 * 1024 * 1024
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
CONVERT = "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
# Python writes these constants, which JSON does not have. NaN counts as a missing value.
_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}


def decode_utf8(data: bytes, where: str) -> str:
    """Return the text of UTF-8 bytes; raise DataError with the place and the byte if it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8 ({data[error.start : error.start + 4]!r}); "
            f"{CONVERT}"
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


def json_lines(path: Path) -> Iterator[SourceRow]:
    """Yield the objects of the lines of a file."""
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


def json_list(path: Path) -> Iterator[SourceRow]:
    """Yield the objects of a file that is one list."""
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


READERS: dict[Format, str] = {
    "jsonl": "prefine.data.formats:json_lines",
    "json": "prefine.data.formats:json_list",
    "csv": "prefine.data.table_formats:csv_rows",
    "parquet": "prefine.data.table_formats:parquet_rows",
    "arrow": "prefine.data.table_formats:arrow_rows",
}
"""Functions from a path to its rows, each imported for the first file of its format."""


def rows_of(path: Path, format: Format) -> Iterator[SourceRow]:
    """Yield the rows of a file.

    Raises:
        DataError: It is not of this format, or a row is not an object.
    """
    reader: Callable[[Path], Iterator[SourceRow]] = imported(READERS[format])
    return reader(path)
