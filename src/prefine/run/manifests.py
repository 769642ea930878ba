"""The files that say how a run was made: `config.json` and `manifest.json`, as they are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefine.atomic import disk_errors
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION, Manifest
from prefine.run.config_changes import with_begun_defaults


def read_manifests(folder: Path) -> dict[str, Manifest]:
    """The manifests of the stages that have begun, in their order.

    Raises:
        DataError: The file is damaged or of another schema version.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    value = _read_json(path)
    _check_version(value, path)
    try:
        return {name: Manifest.model_validate(item) for name, item in dict(value["stages"]).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a manifest ({error}); restore it or use another --run-dir"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a run folder's `config.json`.

    Raises:
        ConfigError: It is not one of ours.
        DataError: It is damaged or of another schema version.
    """
    path = folder / "config.json"
    value = _read_json(path)
    config = value.get("config")
    if not isinstance(config, dict):
        raise ConfigError(
            f"{path} was not written by prefine, so this is no run folder; choose another folder "
            "with --run-dir"
        )
    _check_version(value, path)
    return config


def begun_config(folder: Path) -> dict[str, Any]:
    """The sections that a run was begun with; empty where none has begun.

    Raises:
        ConfigError: It is no run folder.
        DataError: A file is damaged.
    """
    with disk_errors(folder):
        if (folder / "config.json").exists():
            return read_config(folder)
    # A lost config.json: the manifests still know their own sections.
    found: dict[str, Any] = {}
    for manifest in read_manifests(folder).values():
        found |= manifest.config
    return found


def with_defaults_of_its_folder(config: RunConfig) -> RunConfig:
    """The configuration under the defaults that its run folder was begun with, if it was.

    Raises:
        ConfigError: `run_dir` is no run folder.
        DataError: A file is damaged.
    """
    return with_begun_defaults(config, begun_config(config.run_dir))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: damaged ({error}); restore it or use another --run-dir"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged (no object); restore it or use another --run-dir")
    return value


def _check_version(value: Mapping[str, Any], path: Path) -> None:
    found = value.get("schema_version")
    if found != SCHEMA_VERSION:
        raise DataError(f"{path}: schema version {found}, this prefine reads {SCHEMA_VERSION}")
