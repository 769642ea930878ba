"""Fetch what was published, checked against its recorded hashes."""

import glob
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefine.errors import ConfigError, DataError
from prefine.hub.client import client, hub_errors, library
from prefine.hub.contents import RECORD_NAME, RepoType, file_hash, read_record

_FOLDERS: dict[RepoType, str] = {"model": "model", "dataset": "data"}
_ENTRIES = {"pairs": "pairs", "bridged_pairs": "pairs", "lists": "lists", "labels": "labels"}
"""The section of a configuration that reads a table."""


@dataclass(frozen=True)
class Pulled:
    """A repository that was fetched.

    Attributes:
        type: A model, or a data set.
        folder: Where its files are.
        commit: From which commit.
        files: How many.
        lines: Lines of a configuration that goes on from it.
    """

    type: RepoType
    folder: Path
    commit: str
    files: int
    lines: tuple[str, ...]


def pull(repo: str, to: Path, *, revision: str | None = None) -> list[Pulled]:
    """Fetch the model and the items that were pushed to a repository id, whichever are there.

    A folder appears when all its files are there and have the recorded hashes.

    Args:
        repo: OWNER/NAME.
        to: Gets the folders `model` and `data`.
        revision: A commit, branch or tag.

    Raises:
        ConfigError: There is no such repository, prefine has not pushed it, or a folder is taken.
        BackendError: The hub cannot be reached.
        DataError: A file is not what was pushed.
    """
    api = client(writes=False)
    with hub_errors(repo):
        found = {type_: info for type_ in _FOLDERS if (info := _info(api, repo, type_, revision))}
    if not found:
        at = "" if revision is None else f" at {revision}"
        raise ConfigError(
            f"{repo}{at}: no model and no data set that `prefine push` has published; other models "
            f"are read by their id, {{name: hf, path: {repo}}}, and other data with "
            f"{{name: hub, path: {repo}}}"
        )
    for type_ in found:
        folder = to / _FOLDERS[type_]
        if folder.exists():
            raise ConfigError(f"{folder}: is there already; choose another folder with --to")
    return [_fetch(api, repo, type_, info, to) for type_, info in found.items()]


def _info(api: Any, repo: str, type_: RepoType, revision: str | None) -> Any:
    """The hub's description of a repository that prefine has pushed; None without one."""
    errors = library().errors
    try:
        info = api.repo_info(repo, repo_type=type_, revision=revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return None
    return info if any(one.rfilename == RECORD_NAME for one in info.siblings or ()) else None


def _fetch(api: Any, repo: str, type_: RepoType, info: Any, to: Path) -> Pulled:
    folder = to / _FOLDERS[type_]
    # Kept when this is interrupted: what is there already is not fetched again.
    begun = to / f".{folder.name}-{info.sha[:12]}.tmp"
    options = {"repo_type": type_, "revision": info.sha, "local_dir": begun}
    with hub_errors(repo):
        path = Path(api.hf_hub_download(repo, RECORD_NAME, **options))
        record = read_record(path.read_text(encoding="utf-8"), f"{repo}: {RECORD_NAME}")
        wanted = [RECORD_NAME, *record["files"]]
        api.snapshot_download(
            repo, allow_patterns=[glob.escape(name) for name in wanted], **options
        )
    for name, expected in record["files"].items():
        file = begun / name
        if not file.is_file() or file_hash(file) != expected:
            state = "has changed" if file.is_file() else "is missing"
            raise DataError(
                f"{repo}: {name} {state} since it was pushed, so nothing is made of it; delete "
                f"{begun} and try again, or push the run anew"
            )
    shutil.rmtree(begun / ".cache", ignore_errors=True)
    begun.rename(folder)
    return Pulled(type_, folder, info.sha, len(wanted), _go_on(type_, folder, record["tables"]))


def _go_on(type_: RepoType, folder: Path, tables: list[str]) -> tuple[str, ...]:
    if type_ == "model":
        return (f"policy: {{name: hf, path: {_as_yaml(folder)}}}",)
    return tuple(
        f"{_ENTRIES[name]}: {{name: file, path: {_as_yaml(folder / name)}}}"
        for name in tables
        if name in _ENTRIES
    )


def _as_yaml(path: Path) -> str:
    text = str(path)
    plain = all(character.isalnum() or character in "/._-" for character in text)
    return text if plain else json.dumps(text)
