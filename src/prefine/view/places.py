"""The runs under the folders that a viewer was started with, and how a link names them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

from prefine.errors import ConfigError
from prefine.rounds.page import RESULT as ROUNDS_RESULT

_DEEPEST = 5
"""Folders below a named one in which runs are looked for."""
_MOST_FOLDERS = 20_000
_CONFIG, _MANIFEST = "config.json", "manifest.json"
_MODEL = "model"
"""A folder with a model, which has a file of the name of `_CONFIG` too; or a run called so."""
_TRIAL, _ROUND = "trial-", "round-"

Kind = Literal["run", "rounds", "sweep"]


class RunPlace(NamedTuple):
    """A run folder, one of several rounds, or the trials of a sweep.

    Attributes:
        key: Its name in links; nothing of a link becomes a path.
        path: The folder.
        name: Its path below the folder that was named, for people.
        kind: What it holds.
        parts: The rounds or trials in it, in order.
        parent: The key of the place that it is a round or trial of.
    """

    key: str
    path: Path
    name: str
    kind: Kind
    parts: tuple["RunPlace", ...] = ()
    parent: str | None = None

    @property
    def number(self) -> int:
        """The number of a round; 0 of a run that is none."""
        tail = self.path.name.removeprefix(_ROUND)
        return int(tail) if tail != self.path.name and tail.isdecimal() else 0

    @property
    def folders(self) -> list[tuple[int, Path]]:
        """The run folders with tables, with the number of the round of each."""
        if self.kind == "rounds":
            return [(part.number, part.path) for part in self.parts]
        return [(self.number, self.path)]


def find_places(roots: Sequence[Path]) -> list[RunPlace]:
    """The runs under folders, those of one folder together and in the order of their names.

    Raises:
        ConfigError: There are too many folders to look through.
    """
    found: dict[Path, RunPlace] = {}
    for root in roots:
        base = root.resolve()
        for path in _run_folders(base, _DEEPEST, count()):
            if path not in found:
                found[path] = _place(path, base)
    return list(found.values())


def check_roots(roots: Sequence[Path]) -> None:
    """Raise ConfigError where a folder does not exist."""
    for root in roots:
        if not root.is_dir():
            raise ConfigError(
                f"{root}: no such folder; name run folders, or a folder with runs below it"
            )


def every(places: Sequence[RunPlace]) -> Iterator[RunPlace]:
    """All places, and the rounds and trials in them."""
    for place in places:
        yield place
        yield from place.parts


def _run_folders(folder: Path, depth: int, looked: Iterator[int]) -> Iterator[Path]:
    if next(looked) > _MOST_FOLDERS:
        raise ConfigError(
            f"{folder}: more than {_MOST_FOLDERS:,} folders here; name the folder of runs"
        )
    inner = _subfolders(folder)
    if _is_run(folder) or any(path.name.startswith(_TRIAL) and _is_run(path) for path in inner):
        yield folder
        return
    # Below a run that has lost its configuration there are only its own files.
    if depth and not (folder / _MANIFEST).is_file():
        for path in inner:
            yield from _run_folders(path, depth - 1, looked)


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder; not links, which may lead in circles, nor what cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
    except OSError:
        return []
    return sorted(found)


def _is_run(folder: Path) -> bool:
    named = _MANIFEST if folder.name == _MODEL else _CONFIG
    return (folder / named).is_file()


def _place(path: Path, base: Path) -> RunPlace:
    name = path.name if path == base else str(path.relative_to(base))
    inner = _subfolders(path)
    rounds = [one for one in inner if one.name.startswith(_ROUND) and _is_run(one)]
    trials = [one for one in inner if one.name.startswith(_TRIAL) and _is_run(one)]
    kind: Kind = "run"
    if rounds or (path / ROUNDS_RESULT).is_file():
        kind, within = "rounds", rounds
    else:
        within = trials
        if trials and not _is_run(path):
            kind = "sweep"
    key = _key(path)
    parts = tuple(RunPlace(_key(one), one, f"{name}/{one.name}", "run", (), key) for one in within)
    return RunPlace(key, path, name, kind, parts)


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
