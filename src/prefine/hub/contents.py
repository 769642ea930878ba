"""The files of a run that are published, in the repositories that they go to."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from prefine.config.sections import ITEM_ENTRIES, RunConfig
from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION
from prefine.run.tables import existing_parts
from prefine.stages.bridged import items_table

RECORD_NAME = "prefine.json"
"""The file of a repository that lists its files with their hashes."""

What = Literal["model", "pairs", "report"]
WHAT: tuple[What, ...] = ("model", "pairs", "report")
RepoType = Literal["model", "dataset"]
_REPORT = "report.html"


@dataclass(frozen=True)
class Published:
    """A file that is published: its path in the repository, and its content.

    `content` is a file of the run, or bytes that were made for this purpose.
    """

    name: str
    content: Path | bytes

    def read(self) -> bytes:
        """The whole content."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()

    @property
    def size(self) -> int:
        """Bytes."""
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def sha256(self) -> str:
        """The hash of the content."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        return file_hash(self.content)


@dataclass(frozen=True)
class Repository:
    """The files of one repository, which go there in one commit.

    Attributes:
        type: A model, or a data set of items.
        files: All but the record of their hashes.
        tables: The tables of items in a data set, held-out ones with them.
    """

    type: RepoType
    files: tuple[Published, ...]
    tables: tuple[str, ...] = ()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_what(text: str) -> tuple[What, ...]:
    """Return what `--what` names, in our order.

    Raises:
        ConfigError: A name is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WHAT:
            raise ConfigError(f"--what {name}: unknown; choose among {', '.join(WHAT)}")
    if not set(names) - {"report"}:
        raise ConfigError(
            f"--what {text}: the report goes with a model or with pairs; name one of them, too"
        )
    return tuple(one for one in WHAT if one in names)


def repositories(config: RunConfig, what: Sequence[What]) -> list[Repository]:
    """Return the files of a run that are published, as they are on the disk.

    Journals, logs, checkpoints and configurations are none of them.

    Raises:
        ConfigError: The run has nothing of what is wanted.
        DataError: A folder holds something that is no ordinary file.
    """
    run, report = config.run_dir, []
    if "report" in what:
        if not (run / _REPORT).is_file():
            raise ConfigError(f"{run / _REPORT}: is missing; run `prefine report {run}` first")
        report = [Published(_REPORT, run / _REPORT)]
    found = []
    if "model" in what:
        files = list(_files(run / "model"))
        if not files:
            raise ConfigError(
                f"{run / 'model'}: there is no model; run `prefine train {run}` first"
            )
        found.append(Repository("model", (*files, *report)))
    if "pairs" in what:
        tables = _tables(config)
        files = [
            Published(f"{name}/{path.name}", path)
            for name in tables
            for path in existing_parts(run / name)
        ]
        if not files:
            raise ConfigError(f"{run / 'pairs'}: there are none; run `prefine pair {run}` first")
        # One copy of the report is enough.
        found.append(Repository("dataset", (*files, *([] if found else report)), tables))
    return found


def record_of(repository: Repository) -> Published:
    """Return the file that lists the others with their hashes."""
    value = {
        "schema_version": SCHEMA_VERSION,
        "pushed_by": f"prefine {version('prefine')}",
        "type": repository.type,
        "tables": list(repository.tables),
        "files": {
            file.name: {"sha256": file.sha256(), "size": file.size}
            for file in sorted(repository.files, key=lambda file: file.name)
        },
    }
    return Published(RECORD_NAME, (json.dumps(value, indent=1) + "\n").encode())


def read_record(text: str, where: str) -> dict[str, Any]:
    """Return the checked content of such a file.

    Raises:
        DataError: It is damaged, or of another schema version.
    """
    try:
        value = json.loads(text)
        version_, files = value["schema_version"], value["files"]
        names = {str(name): str(entry["sha256"]) for name, entry in files.items()}
        tables = [str(name) for name in value["tables"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: damaged ({type(error).__name__}: {error})") from error
    if version_ != SCHEMA_VERSION:
        raise DataError(f"{where}: schema version {version_}, this prefine reads {SCHEMA_VERSION}")
    for name in (*names, *tables):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(f"{where}: names the file {name!r}, which lies outside the repository")
    return {"files": names, "tables": tables}


def _tables(config: RunConfig) -> tuple[str, ...]:
    """The tables that training reads and those that are held out, as far as they are there."""
    named = [
        name for kind in ITEM_ENTRIES for name in (items_table(config, kind), f"heldout_{kind}")
    ]
    return tuple(name for name in named if existing_parts(config.run_dir / name))


def _files(folder: Path) -> Iterator[Published]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DataError(f"{path}: is no ordinary file, so it is not published; take it away")
        if path.is_file():
            yield Published(path.relative_to(folder).as_posix(), path)
