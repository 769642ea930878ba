"""The check of what is published: no key, and no path of the machine that the run was made on.

Fields that libraries fill with a path are rewritten, and so are paths that the run's configuration
and command line name, where the report and our card show them. Whatever is left is refused.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefine.errors import ConfigError
from prefine.hub.contents import Published
from prefine.secrets import find_secrets

NAME_FIELDS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
"""Fields of a model's JSON files in which libraries note where it was loaded from."""

_ADAPTER_BASE = "base_model_name_or_path"
_VOCABULARY = re.compile(r"(tokenizer\.json|vocab\.\w+|merges\.txt|\w+\.(model|spm|tiktoken))")
"""Files of a tokenizer: their pieces may look like anything."""

# First components of paths that tell about a machine, and of paths that are the same on all.
_PRIVATE = {
    *("home", "Users", "root", "mnt", "media", "tmp", "var", "srv", "opt", "data", "scratch"),
    *("workspace", "work", "private", "Volumes", "content", "export", "nfs", "gpfs", "lustre"),
}
_COMMON = {"usr", "bin", "sbin", "etc", "dev", "proc", "sys", "lib", "lib64", "boot", "run"}
_POSIX = re.compile(r"(?<![\w./<~-])(?:file://)?/([\w.@+~-]+)/[\w.@+~/-]+")
_WINDOWS = re.compile(r"(?<![\w])[A-Za-z]:\\{1,2}[\w .-]+\\")
# A value that is a path and nothing else; a line of a text is one only if it has no space.
_WHOLE = re.compile(r"(?:file://)?/[^/\s*][^/\n]*/(?:\S.*)?|~/\S.*|[A-Za-z]:[\\/].+")
_WHOLE_LINE = re.compile(r"(?:file://)?/[^/\s]+/\S*|~/\S+|[A-Za-z]:[\\/].+")
_FOLDERS = re.compile(
    r"((?:[A-Za-z]\w+:)?)(?:(?:file://)?/(?!/)|~/|[A-Za-z]:[\\/]|\\\\)(?:.*[/\\])?", re.DOTALL
)
"""All but the last name of an absolute path, after a kind such as `hub:`."""
_IN_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+/?")
_EXTRA = "prefine_extra"
_ORIGINS = {"source", "model"}
"""Fields of prompts and answers in that column which say where they came from."""
_SAID = {"messages", "message", "earlier_turns", "tools", "chat_template_kwargs"}
"""Fields of prompts and answers that are text, in which a path is a text like any other."""
_Place = tuple[str, str, re.Pattern[str] | None]
_SHOWN = 10


def absolute_paths(values: Iterable[Any]) -> set[str]:
    """Return the absolute paths among the texts of nested values, also those behind a `=`."""
    found: set[str] = set()
    for value in values:
        for _, text in _texts(value):
            for word in (text, text.partition("=")[2]):
                path = word.removeprefix("file://")
                if _WHOLE.fullmatch(path) and "://" not in path:
                    found.add(path.rstrip("/\\"))
    return found


def hub_id_in_cache(path: str) -> str | None:
    """Return the hub id of a model whose path is in the hub's cache, else None."""
    found = _IN_CACHE.search(path)
    return f"{found[1]}/{found[2]}" if found else None


def without_paths(file: Published, base: str | None, known: set[str]) -> tuple[Published, str]:
    """Return a file without the paths that stand in known fields, and what was rewritten.

    Args:
        file: To be published.
        base: The hub id of the base model, if it has one.
        known: Absolute paths that the run's configuration and commands name.

    Raises:
        ConfigError: An adapter names a folder as its base model, which has no hub id.
    """
    if file.name.endswith(".json"):
        return _with_names(file, base)
    if file.name in ("report.html", "README.md"):
        text = file.read().decode("utf-8", "surrogateescape")
        shortened = _shortened(text, known)
        if shortened != text:
            content = shortened.encode("utf-8", "surrogateescape")
            return replace(file, content=content), "paths shortened to their last name"
    if file.name.endswith(".parquet") and isinstance(file.content, Path):
        return _with_sources(file, file.content, known)
    return file, ""


def refuse_leaks(files: Sequence[Published], own: set[str]) -> None:
    """Raise if something that is to be published holds a key or a path of a machine.

    Args:
        files: As they would be published.
        own: Absolute paths of this run, which may stand nowhere, not even in answers.

    Raises:
        ConfigError: The message names files and places, and repeats no key.
    """
    ours = re.compile("|".join(map(re.escape, sorted(own, key=len, reverse=True))) or r"(?!)")
    found = []
    for file in files:
        for place, text, whole in _places(file):
            found += [f"{file.name}, {place}: {what}" for what in _leaks(text, ours, whole)]
    if found:
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            "nothing was published, as this holds keys or paths of a machine:\n"
            + "\n".join(f"  {line}" for line in found[:_SHOWN])
            + f"{more}\nTake them out of the run's files (of data: out of the source, and run the "
            "stages again), or leave the file out with --what"
        )


def _with_names(file: Published, base: str | None) -> tuple[Published, str]:
    text = file.read().decode("utf-8", "surrogateescape")
    if not any(f'"{name}"' in text for name in NAME_FIELDS):
        return file, ""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file.name}: is no JSON ({error}), so it is not published") from error
    changed: list[str] = []

    def rewritten(value: Any) -> Any:
        if isinstance(value, list):
            return [rewritten(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {name: field(name, one) for name, one in value.items()}

    def field(name: str, value: Any) -> Any:
        if name not in NAME_FIELDS or not isinstance(value, str) or not _WHOLE.fullmatch(value):
            return rewritten(value)
        found = hub_id_in_cache(value) or base
        if found is None and name == _ADAPTER_BASE:
            raise ConfigError(
                f"{file.name}, {name}: {value} is a folder of this machine, so nobody else could "
                "load the adapter; name its base model on the hub with --base-model OWNER/NAME"
            )
        new = found or Path(value).name
        changed.append(f"{name} is now {new}")
        return new

    new = rewritten(value)
    if not changed:
        return file, ""
    content = (json.dumps(new, indent=2, ensure_ascii=False) + "\n").encode()
    return replace(file, content=content), ", ".join(dict.fromkeys(changed))


def _shortened(text: str, known: set[str]) -> str:
    for path in sorted(known, key=len, reverse=True):
        name = re.split(r"[/\\]", path)[-1]
        # As it stands in a text, in HTML and in JSON.
        for written in {path, html.escape(path), json.dumps(path)[1:-1]}:
            text = text.replace(written, f"…/{name}")
    return text


def _with_sources(file: Published, path: Path, known: set[str]) -> tuple[Published, str]:
    """A part of a table, in which the file that a prompt came from has its last name only."""
    with pq.ParquetFile(path) as opened:
        at = opened.schema_arrow.get_field_index(_EXTRA)
        # A thread of pyarrow that is still there at the end of a short command may abort it.
        read = partial(opened.read, use_threads=False)
        before = read(columns=[_EXTRA]).column(0).to_pylist() if at >= 0 else []
        after = [_extra_without_paths(text, known) for text in before]
        if after == before:
            return file, ""
        table = read()
    field = table.schema.field(at)
    shortened = table.set_column(at, field, pa.array(after, field.type))
    written = pa.BufferOutputStream()
    pq.write_table(shortened, written, compression="zstd")
    content = written.getvalue().to_pybytes()
    return replace(file, content=content), f"paths in {_EXTRA} shortened to their last name"


def _extra_without_paths(text: str | None, known: set[str]) -> str | None:
    """A cell of the column `prefine_extra`, as it was if it names no path."""
    before = _parsed(text)

    def without(value: Any, field: str = "") -> Any:
        if isinstance(value, dict):
            return {
                name: one if name in _SAID else without(one, name) for name, one in value.items()
            }
        if isinstance(value, list):
            return [without(one, field) for one in value]
        if not isinstance(value, str):
            return value
        if field in _ORIGINS or _is_private_path(value):
            value = _last_names(value)
        return _shortened(value, known)

    after = without(before)
    # As the stage `pair` writes it.
    return text if after == before else json.dumps(after, ensure_ascii=False, sort_keys=True)


def _last_names(text: str) -> str:
    """Return a text such as `/home/ada/x.jsonl, line 3` with the last names of its paths only."""

    def last(found: re.Match[str]) -> str:
        return f"…/{Path(found[0]).name}" if _is_private(found[1]) else found[0]

    return _POSIX.sub(last, _FOLDERS.sub(r"\1…/", text, count=1) if _FOLDERS.match(text) else text)


def _parsed(text: str | None) -> Any:
    """The value of a cell of JSON; what is none is a text."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _leaks(text: str, ours: re.Pattern[str], whole: re.Pattern[str] | None) -> Iterator[str]:
    for _, what in find_secrets(text, urls=whole is not None):
        yield what
    paths = {found[0] for found in ours.finditer(text)}
    if whole is not None:
        paths |= {found[0] for found in _POSIX.finditer(text) if _is_private(found[1])}
        paths |= {found[0] for found in _WINDOWS.finditer(text)}
        # A value that is a path and nothing else, whatever its folders are called.
        if not paths and whole.fullmatch(text.strip()):
            paths.add(text.strip())
    for path in sorted(paths):
        yield f"the path {path}"


def _is_private(first: str) -> bool:
    """Return True if paths that begin so are of one machine: by their name, or as this has one."""
    return first in _PRIVATE or (first not in _COMMON and Path("/", first).is_dir())


def _is_private_path(text: str) -> bool:
    """Return True if a text is a path of one machine and nothing else."""
    first = re.match(r"(?:file://)?/([^/]+)/", text)
    return bool(_WHOLE.fullmatch(text)) and (first is None or _is_private(first[1]))


def _places(file: Published) -> Iterator[_Place]:
    """The texts of a file: where each stands, itself, and what a text that is a path looks like.

    The last is None in answers and in a tokenizer's pieces: there a path is a text like any other,
    unless it is this run's own.
    """
    if file.name.endswith(".parquet"):
        yield from _of_table(file.content)
    elif file.name.endswith(".safetensors"):
        yield from _of_weights(file)
    elif file.name.endswith(".json") and not _VOCABULARY.fullmatch(Path(file.name).name):
        yield from _of_json(file.read(), "the whole file")
    else:
        whole = None if _VOCABULARY.fullmatch(Path(file.name).name) else _WHOLE_LINE
        for number, line in enumerate(file.read().decode("utf-8", "replace").split("\n"), 1):
            yield f"line {number}", line, whole


def _of_json(content: bytes, where: str) -> Iterator[_Place]:
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield where, text, _WHOLE
        return
    for place, found in _texts(value):
        yield place or where, found, _WHOLE


def _of_table(content: Path | bytes) -> Iterator[_Place]:
    source = pa.BufferReader(content) if isinstance(content, bytes) else content
    with pq.ParquetFile(source) as table:
        metadata = table.schema_arrow.metadata or {}
        for name, value in {**(table.metadata.metadata or {}), **metadata}.items():
            where = f"metadata {name.decode('utf-8', 'replace')}"
            for text in (name, value):
                whole = None if name == b"ARROW:schema" else _WHOLE
                yield where, text.decode("utf-8", "replace"), whole
        first = 0
        for group in range(table.num_row_groups):
            rows = table.read_row_group(group, use_threads=False).to_pylist()
            for number, row in enumerate(rows, first):
                if _EXTRA in row:
                    row[_EXTRA] = _parsed(row[_EXTRA])
                for place, text in _texts(row):
                    yield f"row {number}, {place}", text, _WHOLE if _is_origin(place) else None
            first += len(rows)


def _is_origin(place: str) -> bool:
    """Return True if a field of a row says where its prompt or an answer came from."""
    column, *fields = place.split(".")
    if column != _EXTRA or _SAID.intersection(fields):
        return False
    return not fields or fields[-1] in _ORIGINS


def _of_weights(file: Published) -> Iterator[_Place]:
    """The header of a safetensors file, which has names and metadata; the rest is numbers."""
    if isinstance(file.content, bytes):
        data = file.content
        length = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + length]
    else:
        with file.content.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = opened.read(min(length, file.size))
    for place, text, whole in _of_json(header, ""):
        yield f"header {place}".rstrip(), text, whole


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text within nested values, with its place such as `messages.0.content`."""
    if isinstance(value, str):
        yield place, value
        return
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    for name, one in value.items() if isinstance(value, dict) else ():
        inner = f"{place}.{name}" if place else str(name)
        yield from _texts(one, inner)
        if isinstance(name, str):
            yield inner, name
