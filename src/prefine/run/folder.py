"""The run folder: who may write in it, what it was made from, and where things lie."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from prefine.atomic import disk_errors, write_text
from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION, Manifest
from prefine.run.config_diff import config_diff, with_new_defaults
from prefine.run.journal import Journal

# What each stage reads of the configuration. A section may still change while no stage that reads
# it has begun.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "sample": ("policy", "prompts", "completions", "sample"),
    "rank": ("rank",),
    "pair": ("pair", "pairs"),
    "train": ("policy", "train"),
    "evaluate": ("evaluate",),
    "report": ("report",),
}
# Making pairs costs nothing, so this section may change until a later stage has worked on what it
# made.
_SETTLED_BY = {"pair": "train"}
# Growing these extends a run; shrinking or changing anything else would mix two runs in one folder.
_MAY_GROW = {
    "sample.completions_per_prompt",
    "prompts.count",
    "prompts.limit",
    "completions.limit",
    "rank.judge.max_new_tokens",
    "evaluate.judge.max_new_tokens",
}
# These say how hard to try, what to spend or what to show, not what to compute.
_FREE = {
    "sample.max_failed_fraction",
    "sample.max_cost",
    "rank.max_failed_fraction",
    "rank.max_calls",
    "rank.max_cost",
    "train.reference_cache",
    "evaluate.max_failed_fraction",
    "report.title",
    "report.examples",
    "train.tracking",
}
# Where a server is and how it is asked change no answer, and people move servers.
_TRANSPORT = {"base_url", "api_key_env", "concurrency", "timeout_s", "max_retries", "prices"}


def fingerprinted(sections: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What of a configuration decides what is computed; of an older version's too, whose missing keys are defaults."""
    found: dict[str, JsonValue] = _without_free(with_new_defaults(sections), "")
    return found


def _without_free(value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    places = {name: f"{path}.{name}" if path else name for name in value}
    return {
        name: _without_free(value[name], place)
        for name, place in places.items()
        if not _is_free(place)
    }


def _is_free(path: str) -> bool:
    names = path.split(".")
    within = {".".join(names[:depth]) for depth in range(1, len(names) + 1)}
    return bool(within & _FREE or _TRANSPORT & set(names))


class RunFolder:
    """An open run folder, under a lease: one process at a time.

    Raises:
        ConfigError: It cannot be written, is no run folder, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: Journal | None = None
        with disk_errors(path):
            _make(path)
            if (path / "config.json").exists():
                _begun_with(path / "config.json")
            self._lease = (path / ".lease").open("a+")
        try:
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lease.seek(0)
            holder = self._lease.read().strip() or "unknown"
            self._lease.close()
            raise ConfigError(
                f"{path}: another process (pid {holder}) is using this run folder; "
                "wait for it, or use another --run-dir"
            ) from error
        with disk_errors(path):
            self._lease.truncate(0)
            self._lease.write(str(os.getpid()))
            self._lease.flush()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._journal is not None:
            self._journal.close()
        self._lease.close()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def journal(self) -> Journal:
        """The journal of this process, opened on first use."""
        if self._journal is None:
            self._journal = Journal(self.path / "journal" / "part-00000.sqlite")
        return self._journal

    def adopt_config(self, resolved: dict[str, JsonValue]) -> None:
        """Write the configuration, or compare it with the one this folder was begun with.

        Raises:
            ConfigError: A section that a begun stage reads has changed; the message shows the
                difference.
        """
        path = self.path / "config.json"
        manifests = self.manifests()
        if path.exists() or manifests:
            # Without config.json, the manifests still know their own sections.
            known = {
                name: value
                for manifest in manifests.values()
                for name, value in manifest.config.items()
            }
            before = with_new_defaults(_begun_with(path) if path.exists() else known)
            begun = {
                section for stage in manifests for section in STAGE_SECTIONS.get(stage, ())
            } & before.keys()
            begun -= {section for section, stage in _SETTLED_BY.items() if stage not in manifests}
            changes = [
                f"  {name}: {_show(old)} → {_show(new)}"
                for name, (old, new) in config_diff(before, with_new_defaults(resolved)).items()
                if name.split(".")[0] in begun and not _allowed(name, old, new)
            ]
            if changes:
                raise ConfigError(
                    f"{self.path}: this folder was begun with another configuration:\n"
                    + "\n".join(changes)
                    + "\n"
                    "Use another --run-dir for the new configuration, or take the change back to "
                    "resume"
                    + (
                        _other_pairs(self.path)
                        if all(line.startswith("  pair.") for line in changes)
                        else ""
                    )
                )
        write_text(
            path,
            json.dumps({"schema_version": SCHEMA_VERSION, "config": resolved}, indent=1) + "\n",
        )

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the stages that have begun."""
        path = self.path / "manifest.json"
        if not path.exists():
            return {}
        value = _read_json(path)
        if value.get("schema_version") != SCHEMA_VERSION:
            raise DataError(
                f"{path}: schema version {value.get('schema_version')}, this prefine reads "
                f"{SCHEMA_VERSION}"
            )
        try:
            return {
                name: Manifest.model_validate(item) for name, item in dict(value["stages"]).items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: not a manifest ({error}); restore it or use another --run-dir"
            ) from error

    def answers(self) -> int:
        """How many answers are journaled."""
        return self.journal().count() if (self.path / "journal").is_dir() else 0

    def forget(self, stage: str) -> None:
        """Take back that a stage has begun, since it left nothing; its sections may change again."""
        others = {name: item for name, item in self.manifests().items() if name != stage}
        if others:
            self._write_manifests(others)
        else:
            (self.path / "manifest.json").unlink(missing_ok=True)

    def write_manifest(self, manifest: Manifest) -> None:
        """Store one stage's manifest beside the others'."""
        self._write_manifests(self.manifests() | {manifest.stage: manifest})

    def _write_manifests(self, stages: Mapping[str, Manifest]) -> None:
        value = {
            "schema_version": SCHEMA_VERSION,
            "stages": {name: item.model_dump(mode="json") for name, item in stages.items()},
        }
        write_text(
            self.path / "manifest.json", json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        )


def _other_pairs(path: Path) -> str:
    """How other pairs are made of rankings that have been paid for, once a model was trained on the first ones."""
    kept = ",".join(
        name for name in ("journal", "completions", "rankings") if (path / name).is_dir()
    )
    if not kept:
        return ""
    copied = f"{path}/{kept}" if "," not in kept else f"{path}/{{{kept}}}"
    return (
        f". What was sampled and judged need not be paid for again: mkdir NEW && cp -r {copied} "
        "NEW, "
        "then the same command with --run-dir NEW"
    )


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(
            f"{path}: no folder can be made here ({error}); choose another with --run-dir"
        ) from error


def _begun_with(path: Path) -> dict[str, Any]:
    """The configuration in a run folder's `config.json`."""
    value = _read_json(path)
    if not isinstance(value.get("config"), dict):
        raise ConfigError(
            f"{path} was not written by prefine, so this is no run folder; choose another folder "
            "with --run-dir"
        )
    if value.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema version {value.get('schema_version')}, this prefine reads "
            f"{SCHEMA_VERSION}"
        )
    return dict(value["config"])


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


def _allowed(name: str, old: Any, new: Any) -> bool:
    if _is_free(name):
        return True
    # Options of components are checked later, so what should be a number may still be anything.
    if name not in _MAY_GROW or not isinstance(old, int | float):
        return False
    return new is None or (isinstance(new, int | float) and new >= old)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
