"""A run at a URL as it is read: what is wanted of it, fetched into a folder of this machine."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefine.atomic import write_text
from prefine.config.storage import StorageConfig, local_folder
from prefine.errors import ConfigError
from prefine.run.remote import Remote
from prefine.run.segments import is_piece
from prefine.run.store_lease import FOLDER as LEASES

_WORKERS = 8
_STATE = ".fetched.json"
SMALL = ("config.json", "manifest.json")
"""The files of a run that a command reads before it works on it."""
_HEAVY = ("checkpoints", "model", "trackers", "reference")


def fetch_beginnings(run_dir: Path, storage: StorageConfig) -> None:
    """Fetch the configuration and manifest of a run that this machine does not know yet.

    A folder that has them already is left as it is; `mirrored` compares it with the store.

    Raises:
        BackendError: The store does not answer.
    """
    assert storage.url is not None
    if (run_dir / "config.json").exists():
        return
    remote = Remote(storage.url, storage.options, storage.patience_s)
    for name in SMALL:
        try:
            content = remote.read(name)
        except FileNotFoundError:
            continue
        write_text(run_dir / name, content.decode("utf-8"))


def fetched(url: str, *, model: bool = False, options: Mapping[str, Any] | None = None) -> Path:
    """Return a copy of a run for reading, without its journal and checkpoints.

    It is brought up to date at every call: what has not changed since is not fetched again.

    Args:
        url: Of the run folder, or of a folder of several.
        model: Fetch the trained model, too.
        options: Of the URL's file system.

    Raises:
        ConfigError: There is no run.
        BackendError: The store does not answer.
    """
    remote = Remote(url, options)
    stored = {
        name: [found.size, found.mark]
        for name, found in remote.listing().items()
        if not is_piece(name) and not name.startswith(f"{LEASES}/") and _is_wanted(name, model)
    }
    if not any(name.rpartition("/")[2] == "config.json" for name in stored):
        raise ConfigError(f"{url}: there is no run here (no config.json); name a run folder")
    folder = local_folder(url)
    folder = folder.parent.with_name("read") / folder.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = folder / _STATE
    known = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    missing = [
        name for name, mark in stored.items() if known.get(name) != [*mark, _written(folder / name)]
    ]
    for name in known.keys() - stored.keys():
        (folder / name).unlink(missing_ok=True)
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(lambda name: remote.download(name, folder / name), missing))
    fetched_now = {name: [*mark, _written(folder / name)] for name, mark in stored.items()}
    write_text(state, json.dumps(fetched_now))
    return folder


def _written(file: Path) -> int | None:
    """When a file was last written, in ns; None if it is not there."""
    return file.stat().st_mtime_ns if file.is_file() else None


def _is_wanted(name: str, model: bool) -> bool:
    parts = name.split("/")[:-1]
    return not any(part in _HEAVY and not (model and part == "model") for part in parts)
