"""The run folder: its lease, its configuration, its manifests and its journal."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from prefine.atomic import disk_errors, write_text
from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION, Manifest
from prefine.run.config_changes import refused_changes
from prefine.run.manifests import begun_config, read_config, read_manifests
from prefine.run.open_mirrors import mirror_of
from prefine.secrets import redact

if TYPE_CHECKING:  # a training asks nobody
    from prefine.run.journal import Journal


class RunFolder:
    """An open run folder, under a lease: one process at a time.

    Raises:
        ConfigError: It cannot be written, is no run folder, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: Journal | None = None
        self.mirror = mirror_of(path)
        """Keeps the folder at a URL; None for a folder of this machine alone."""
        with disk_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Others on this machine may not read prompts and answers; whoever wants them to
                # makes the folder, which keeps its mode.
                path.mkdir(mode=0o700, exist_ok=True)
            except (FileNotFoundError, ValueError) as error:
                raise ConfigError(
                    f"{path}: no folder can be made here ({error}); choose another with --run-dir"
                ) from error
            if (path / "config.json").exists():
                read_config(path)
            self._lease = (path / ".lease").open("a+")
        try:
            # The kernel drops the lock with the process, so a killed run leaves none behind.
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

    def journal(self) -> "Journal":
        """The journal of this process, opened on first use.

        Parts that an executor's tasks have left beside it, as their driver was killed, are taken
        over then.

        Raises:
            DataError: It is missing or empty, and the manifest says that calls were made.
        """
        from prefine.run.journal import Journal

        if self._journal is None:
            path = self.path / "journal" / "part-00000.sqlite"
            calls = sum(manifest.usage.calls for manifest in self.manifests().values())
            if calls and not path.exists():
                raise _lost(path, "missing", calls)
            self._journal = Journal(path, self.mirror)
            parts = path.parent.glob("part-*.sqlite")
            if any(part != path for part in parts):
                from prefine.run.journal_parts import absorb_parts

                absorb_parts(self._journal)
            if calls and self._journal.empty:
                raise _lost(path, "empty", calls)
        return self._journal

    def adopt_config(self, resolved: dict[str, JsonValue]) -> None:
        """Write the configuration, or compare it with the one this folder was begun with.

        Raises:
            ConfigError: A section that a begun stage reads has changed; the message shows the
                difference.
        """
        path = self.path / "config.json"
        manifests = read_manifests(self.path)
        if changes := refused_changes(begun_config(self.path), resolved, manifests):
            lines = "\n".join(f"  {change}" for change in changes)
            only_pairs = all(change.startswith("pair.") for change in changes)
            raise ConfigError(
                f"{self.path}: this folder was begun with another configuration:\n{lines}\n"
                "Use another --run-dir for the new configuration, or take the change back to "
                f"resume{_copy_advice(self.path) if only_pairs else ''}"
            )
        value = {"schema_version": SCHEMA_VERSION, "config": resolved}
        write_text(path, json.dumps(value, indent=1) + "\n")

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the stages that have begun."""
        return read_manifests(self.path)

    def answers(self) -> int:
        """The number of answers that this process has journaled."""
        return 0 if self._journal is None else self._journal.stored

    def forget(self, stage: str) -> None:
        """Take back that a stage has begun: it left nothing, so its sections may change again."""
        others = {name: item for name, item in self.manifests().items() if name != stage}
        if others:
            self._write_manifests(others)
        else:
            (self.path / "manifest.json").unlink(missing_ok=True)

    def write_manifest(self, manifest: Manifest) -> None:
        """Store one stage's manifest with the others'.

        Of a run at a URL, a stage that is complete is there when this returns.
        """
        self._write_manifests(self.manifests() | {manifest.stage: manifest})
        if manifest.complete and self.mirror is not None:
            self.mirror.settle()

    def stopped(self, stage: str, message: str) -> None:
        """Store with which message a stage stopped before its end, if it has begun."""
        if (found := self.manifests().get(stage)) is not None and not found.complete:
            said = redact(message)
            self.write_manifest(found.model_copy(update={"stopped_by": said}))

    def _write_manifests(self, stages: Mapping[str, Manifest]) -> None:
        value = {
            "schema_version": SCHEMA_VERSION,
            "stages": {name: item.model_dump(mode="json") for name, item in stages.items()},
        }
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        write_text(self.path / "manifest.json", text)


def _lost(path: Path, how: str, calls: int) -> DataError:
    """The error of a folder without the answers that were paid for."""
    return DataError(
        f"{path}: this journal is {how}, though manifest.json says that {calls:,} calls were made; "
        "going on would ask and pay for all of them again. Restore the journal from a backup; or, "
        f"to ask again, move {path.parent.parent / 'manifest.json'} away"
    )


def _copy_advice(path: Path) -> str:
    """The command that makes other pairs of the same rankings, after a model was trained."""
    kept = [name for name in ("journal", "completions", "rankings") if (path / name).is_dir()]
    if not kept:
        return ""
    copied = f"{path}/{kept[0]}" if len(kept) == 1 else f"{path}/{{{','.join(kept)}}}"
    return (
        f". What was sampled and judged need not be paid for again: mkdir NEW && cp -r {copied} "
        "NEW, then the same command with --run-dir NEW"
    )
