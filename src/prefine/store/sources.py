"""Where rows come from: a user's file, or the embedded playground. Each row knows its place, for messages."""

import json
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from prefine.errors import ConfigError, DataError

Format = Literal["jsonl", "json", "parquet"]
_BY_SUFFIX: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
MAX_LINE_BYTES = 64 * 1024 * 1024
_FIRST_CHARACTERS = 80


class Row(NamedTuple):
    """One row of a source: its place ("prompts.jsonl, line 3"), and its fields."""

    where: str
    values: dict[str, Any]


def file(
    *,
    path: Path,
    format: Format | None = None,
    columns: dict[str, str] | None = None,
    limit: Annotated[int, Field(gt=0)] | None = None,
) -> Iterator[Row]:
    """Rows of a JSON Lines, JSON (a list of objects) or Parquet file.

    Args:
        path: The file; a relative one is looked up from the working directory.
        format: Needed only when the file's ending does not say it.
        columns: Our name → the file's name, for columns that are called otherwise there.
        limit: Take the first rows only.

    Raises:
        ConfigError: There is no such file, or its format is unknown.
        DataError: The file is empty, or a row is not an object; the message has the line.
    """
    kind = format or _BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"{path}: cannot tell the format from the ending {path.suffix!r}; set format to one of "
            f"{', '.join(sorted(set(_BY_SUFFIX.values())))}"
        )
    if not _is_file(path):
        raise ConfigError(f"{path}: {'this is a folder' if path.is_dir() else 'no such file'}; give the path of a file")
    return _limited(_renamed(_READERS[kind](path), columns or {}), limit, path)


def playground(
    *,
    count: Annotated[int, Field(gt=0)] = 256,
    split: Literal["train", "test"] = "train",
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Iterator[Row]:
    """Prompts of the embedded world; train and test prompts never coincide.

    Args:
        count: How many distinct prompts; asking for more only appends.
        split: Which side of the split.
        seed: Of the drawing.
    """
    from prefine.playground.world import draw_prompts

    for number, text in enumerate(draw_prompts(count, split=split, seed=seed)):
        yield Row(f"playground {split} prompt {number}", {"prompt": text})


def _is_file(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from error
    return True


def _limited(rows: Iterator[Row], limit: int | None, path: Path) -> Iterator[Row]:
    empty = True
    for row in islice(rows, limit):
        empty = False
        yield row
    if empty:
        raise DataError(f"{path}: the file has no rows; give a file with at least one")


def _renamed(rows: Iterator[Row], columns: dict[str, str]) -> Iterator[Row]:
    for where, values in rows:
        for ours, theirs in columns.items():
            if theirs not in values:
                raise DataError(
                    f"{where}: no column {theirs!r} (mapped to {ours!r}); this row has {', '.join(sorted(values))}"
                )
        renamed = {ours: values[theirs] for ours, theirs in columns.items()}
        yield Row(where, {k: v for k, v in values.items() if k not in columns.values()} | renamed)


def _jsonl(path: Path) -> Iterator[Row]:
    # Lines end at \n only: texts contain U+2028 and the like, at which str.splitlines would cut.
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{where}: longer than {MAX_LINE_BYTES // 2**20} MiB; is this one JSON object a line?")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield Row(where, _object(_parsed(_decoded(line, where), where), where))


def _json(path: Path) -> Iterator[Row]:
    value = _parsed(_decoded(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(path)), str(path))
    if not isinstance(value, list):
        raise DataError(f"{path}: a JSON file must hold a list of objects, this one holds {_kind(value)}")
    for number, item in enumerate(value):
        where = f"{path}, row {number}"
        yield Row(where, _object(item, where))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error
    number = 0
    try:
        for batch in parquet.iter_batches(batch_size=1024):
            for item in batch.to_pylist():
                yield Row(f"{path}, row {number}", _plain(item))
                number += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}, after row {number - 1}: damaged Parquet ({error}); write the file again") from error


def _plain(value: Any) -> Any:
    """Arrow's values as JSON's: moments and decimals become text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | timedelta) else value


_READERS = {"jsonl": _jsonl, "json": _json, "parquet": _parquet}


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8 ({data[error.start : error.start + 4]!r}); "
            "convert the file, for example with iconv -t UTF-8"
        ) from error


def _parsed(text: str, where: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    # A number of thousands of digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}): {text[:_FIRST_CHARACTERS].strip()!r}") from error
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(value, where)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} appears twice in one object; keep one")
    return values


def _refuse_half_characters(value: Any, where: str) -> None:
    """Text that no file can hold: JSON may escape one half of a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start + 20]
        raise DataError(
            f"{where}: half of a surrogate pair in {around!r}; the text was cut inside a character such as an emoji: "
            "repair or remove the row"
        ) from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with named fields, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:_FIRST_CHARACTERS]!r}"
