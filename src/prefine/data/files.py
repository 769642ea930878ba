"""The files that a path stands for: one file, a pattern, or a folder of parts."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefine.data.compression import SUFFIXES, check_no_archive
from prefine.data.formats import READERS, Format, decode_utf8, parse_json, rows_of
from prefine.data.layouts.protocol import SourceRow
from prefine.errors import ConfigError, DataError

# What stands in a file's place, by its first bytes.
_NO_DATA = (
    (b"version https://git-lfs.", "a pointer of Git LFS; fetch the file itself with git lfs pull"),
    (b"<!doctype html", "a web page; download the file itself"),
    (b"<html", "a web page; download the file itself"),
    (b"\xff\xfe", "in UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "in UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8"),
)
_BY_SUFFIX: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


def files_at(path: Path, format: Format | None) -> list[tuple[Path, Format]]:
    """Return the files that a path stands for, sorted, each with its format.

    Raises:
        ConfigError: There is none, or the format of one is unknown.
    """
    return [(file, format or _format_of(file)) for file in _matching(path, format)]


def rows_in(files: list[tuple[Path, Format]]) -> Iterator[SourceRow]:
    """Yield the rows of several files, one file after the other.

    Raises:
        DataError: A file is empty, damaged, or a row is not an object; the message has the line.
    """
    for path, kind in files:
        _check_beginning(path)
        empty = True
        for row in rows_of(path, kind):
            empty = False
            yield row
        if empty:
            raise DataError(f"{path}: the file has no rows; give a file with at least one")


def _check_beginning(path: Path) -> None:
    """Raise DataError for what is no data file whatever its format, as its first bytes show."""
    with path.open("rb") as file:
        start = file.read(64).lower()
    what = next((what for beginning, what in _NO_DATA if start.startswith(beginning)), None)
    if what is not None:
        raise DataError(f"{path}: this file is {what}")


def _matching(path: Path, format: Format | None) -> list[Path]:
    if _is_file(path):
        return [path]
    if path.is_dir():
        saved = _files_of_saved_dataset(path)
        return _parts(path, format) if saved is None else saved
    if glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        if files := [file for file in found if _is_file(file)]:
            return files
        raise ConfigError(
            f"{path}: no file has a name like this; give the path of a file, a pattern or a folder"
        )
    raise ConfigError(
        f"{path}: no such file; give the path of a file, a pattern or a folder of parts"
    )


def _files_of_saved_dataset(folder: Path) -> list[Path] | None:
    """Return the files that `datasets` saved in a folder; None if it did not save this folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json_in(folder, "dataset_dict.json")
        names = splits.get("splits", []) if isinstance(splits, dict) else []
        example = folder / str(names[0] if names else "train")
        raise ConfigError(
            f"{folder}: holds several splits ({', '.join(map(str, names))}); give the folder of "
            f"one, such as {example}"
        )
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _json_in(folder, "state.json")
    try:
        return [folder / file["filename"] for file in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{folder / 'state.json'}: not what `datasets` writes ({error!r}); save it again"
        ) from error


def _json_in(folder: Path, name: str) -> Any:
    return parse_json(decode_utf8((folder / name).read_bytes(), str(folder)), str(folder))


def _parts(folder: Path, format: Format | None) -> list[Path]:
    """Return the files of a folder that have one known format, or the given one."""
    known = {
        file: _BY_SUFFIX[suffix]
        for file in sorted(folder.iterdir())
        if (suffix := _suffix(file)) and not file.name.startswith(".")
    }
    files = [file for file, kind in known.items() if format in (None, kind)]
    if not files:
        what = f"{format} file" if format else "file of a known format"
        raise ConfigError(f"{folder}: this is a folder without a {what}; give the path of a file")
    kinds = sorted({known[file] for file in files})
    if len(kinds) > 1:
        raise ConfigError(
            f"{folder}: this folder holds {' and '.join(kinds)} files; set format to the one to "
            "read"
        )
    return files


def _suffix(path: Path) -> str:
    """Return the ending that tells the format, without that of a compression behind it."""
    name = path.name.lower()
    compressed = next(filter(name.endswith, SUFFIXES), "")
    name = name.removesuffix(compressed)
    return max(filter(name.endswith, _BY_SUFFIX), key=len, default="")


def _format_of(path: Path) -> Format:
    if suffix := _suffix(path):
        return _BY_SUFFIX[suffix]
    check_no_archive(path)
    raise ConfigError(
        f"{path}: cannot tell the format from the ending {path.suffix!r}; set format to one of "
        f"{', '.join(sorted(READERS))}"
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
