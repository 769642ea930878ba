"""Rows of files as they are: JSON Lines, JSON, CSV, Parquet, Arrow; one file, a pattern, or a folder of parts."""

import csv
import glob
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from prefine.data.json_text import decoded, kind_of, object_of, parsed
from prefine.data.layouts.protocol import SourceRow
from prefine.errors import ConfigError, DataError

Format = Literal["jsonl", "json", "csv", "parquet", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
MAX_LINE_BYTES = 64 * 1024 * 1024
_ROWS_AT_A_TIME = 1024
_MARK = b"\xef\xbb\xbf"
# Cells of a CSV file are texts. These columns are never one, and a list of messages is recognised
# in any.
_STRUCTURED = {"completions", "tools", "chat_template_kwargs", "models", "choices", "turns"}
# What str() makes of messages; a table of objects that was written as CSV is full of it.
_PYTHON_MESSAGES = re.compile(r"\[?\s*\{'(role|content)':")
_OPTIONAL = {"weight", "score_gap", "p_chosen", "tools", "chat_template_kwargs"}


def files_at(path: Path, format: Format | None) -> list[tuple[Path, Format]]:
    """The files that a path stands for, sorted, each with its format.

    Raises:
        ConfigError: There is none, or the format of one is unknown.
    """
    found = _matching(path, format)
    return [(one, format or _format_of(one)) for one in found]


def rows_in(files: list[tuple[Path, Format]]) -> Iterator[SourceRow]:
    """The rows of several files, one after the other, each file with at least one.

    Raises:
        DataError: A file is empty, damaged, or a row is not an object; the message has the line.
    """
    for path, kind in files:
        empty = True
        for row in _READERS[kind](path):
            empty = False
            yield row
        if empty:
            raise DataError(f"{path}: the file has no rows; give a file with at least one")


def _matching(path: Path, format: Format | None) -> list[Path]:
    if _is_file(path):
        return [path]
    if path.is_dir():
        return _parts(path, format)
    if glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        if files := [one for one in found if _is_file(one)]:
            return files
        raise ConfigError(
            f"{path}: no file has a name like this; give the path of a file, a pattern or a folder"
        )
    raise ConfigError(
        f"{path}: no such file; give the path of a file, a pattern or a folder of parts"
    )


def _parts(folder: Path, format: Format | None) -> list[Path]:
    """The files of a folder: one that `datasets` saved, or parts of one format."""
    if (folder / "dataset_dict.json").is_file():
        splits = parsed(
            decoded((folder / "dataset_dict.json").read_bytes(), str(folder)), str(folder)
        )
        names = splits.get("splits", []) if isinstance(splits, dict) else []
        raise ConfigError(
            f"{folder}: holds several splits ({', '.join(map(str, names))}); give the folder of "
            "one, such as "
            f"{folder / str(names[0]) if names else folder / 'train'}"
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        state = parsed(decoded((folder / "state.json").read_bytes(), str(folder)), str(folder))
        try:
            return [folder / one["filename"] for one in state["_data_files"]]
        except (TypeError, KeyError) as error:
            raise DataError(
                f"{folder / 'state.json'}: not what `datasets` writes ({error!r}); save it again"
            ) from error
    known = {
        one: _suffix(one)
        for one in sorted(folder.iterdir())
        if _suffix(one) and not one.name.startswith(".")
    }
    if format is not None:
        known = {one: suffix for one, suffix in known.items() if _BY_SUFFIX[suffix] == format}
    if not known:
        what = f"{format} file" if format else "file of a known format"
        raise ConfigError(f"{folder}: this is a folder without a {what}; give the path of a file")
    kinds = sorted({_BY_SUFFIX[suffix] for suffix in known.values()})
    if len(kinds) > 1:
        raise ConfigError(
            f"{folder}: this folder holds {' and '.join(kinds)} files; set format to the one to "
            "read"
        )
    return list(known)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return max((suffix for suffix in _BY_SUFFIX if name.endswith(suffix)), key=len, default="")


def _format_of(path: Path) -> Format:
    if suffix := _suffix(path):
        return _BY_SUFFIX[suffix]
    raise ConfigError(
        f"{path}: cannot tell the format from the ending {path.suffix!r}; set format to one of "
        f"{', '.join(sorted(set(_BY_SUFFIX.values())))}"
    )


def _is_file(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a file that you may read"
        ) from error
    except ValueError:
        return False
    return True


def _jsonl(path: Path) -> Iterator[SourceRow]:
    # Lines end at \n only: texts contain U+2028 and the like, at which str.splitlines would cut.
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as lines:
        number = 0
        try:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{where}: longer than {MAX_LINE_BYTES // 2**20} MiB; is this one JSON "
                        "object a line?"
                    )
                if number == 1:
                    line = line.removeprefix(_MARK)
                if line.strip():
                    yield SourceRow(where, object_of(parsed(decoded(line, where), where), where))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}, after line {number}: damaged gzip ({error}); compress the file again"
            ) from error


def _json(path: Path) -> Iterator[SourceRow]:
    text = decoded(path.read_bytes().removeprefix(_MARK), str(path))
    try:
        value = parsed(text, str(path))
    except DataError as error:
        if (
            isinstance(error.__cause__, json.JSONDecodeError)
            and error.__cause__.msg == "Extra data"
        ):
            raise DataError(
                f"{path}: a JSON file holds one value, and here is another behind it; if every "
                "line is an object, set "
                "format: jsonl (--format jsonl)"
            ) from error
        raise
    if isinstance(value, dict) and value and all(isinstance(item, list) for item in value.values()):
        raise DataError(
            f"{path}: one object with lists ({', '.join(list(value)[:5])}), such as one for each "
            "split or column; "
            "a JSON file must hold a list of objects: write the wanted list to a file of its own"
        )
    if not isinstance(value, list):
        raise DataError(
            f"{path}: a JSON file must hold a list of objects, this one holds {kind_of(value)}"
        )
    for number, item in enumerate(value):
        where = f"{path}, row {number}"
        yield SourceRow(where, object_of(item, where))


def _csv(path: Path) -> Iterator[SourceRow]:
    # The module's own limit is 128 KiB, which one long answer exceeds.
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open("rb") as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        number = 0
        try:
            names = next(reader, [])
            if len(set(names)) < len(names) or "" in names:
                raise DataError(
                    f"{path}, line 1: every column needs a name of its own, got {kind_of(names)}"
                )
            for cells in reader:
                if not cells:
                    continue
                where = f"{path}, row {number} (line {reader.line_num})"
                if len(cells) != len(names):
                    raise DataError(
                        f"{where}: {len(cells)} cells for {len(names)} columns "
                        f"({', '.join(names)}); "
                        "quote cells that hold commas or line ends"
                    )
                values = {
                    name: _cell(name, cell, where) for name, cell in zip(names, cells, strict=True)
                }
                yield SourceRow(where, values)
                number += 1
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, after row {number - 1}: not UTF-8 ({error.reason}); "
                "convert the file, for example with iconv -t UTF-8"
            ) from error
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _cell(name: str, cell: str, where: str) -> Any:
    if not cell and name in _OPTIONAL:
        return None
    if _PYTHON_MESSAGES.match(cell):
        raise DataError(
            f"{where}: the cell {name} holds messages as Python prints them ({cell[:40]!r}), not "
            "as JSON; "
            "write the table as JSON Lines or Parquet"
        )
    if cell[:1] not in ("[", "{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    items = value if isinstance(value, list) else [value]
    messages = bool(items) and all(isinstance(item, dict) and "role" in item for item in items)
    return value if messages or name in _STRUCTURED else cell


def _parquet(path: Path) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet: {error}") from error
    with closing(parquet):
        yield from _batches(parquet.iter_batches(batch_size=_ROWS_AT_A_TIME), path, "Parquet")


def _arrow(path: Path) -> Iterator[SourceRow]:
    """An IPC file, or the stream that `datasets` writes."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        try:
            try:
                opened = pa.ipc.open_file(source)
                batches: Iterable[Any] = (
                    opened.get_batch(n) for n in range(opened.num_record_batches)
                )
            except pa.ArrowInvalid:
                source.seek(0)
                batches = pa.ipc.open_stream(source)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: not readable as Arrow: {error}") from error
        slices = (
            batch.slice(start, _ROWS_AT_A_TIME)
            for batch in batches
            for start in range(0, len(batch), _ROWS_AT_A_TIME)
        )
        yield from _batches(slices, path, "Arrow")


def _batches(batches: Iterable[Any], path: Path, kind: str) -> Iterator[SourceRow]:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for item in batch.to_pylist():
                yield SourceRow(f"{path}, row {number}", plain(item))
                number += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path}, after row {number - 1}: damaged {kind} ({error}); write the file again"
        ) from error


def plain(value: Any) -> Any:
    """A value of Arrow or Python as JSON has it: moments and decimals become text, what is no number None.

    What JSON cannot hold, such as bytes, stays what it is.
    """
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    # Arrays, and the numbers in them.
    return plain(value.tolist()) if hasattr(value, "tolist") else value


_READERS = {"jsonl": _jsonl, "json": _json, "csv": _csv, "parquet": _parquet, "arrow": _arrow}
