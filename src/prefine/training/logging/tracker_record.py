"""What is remembered of experiment trackers from one run of a command to the next."""

import json
import os
from pathlib import Path
from typing import Any

from prefine.errors import ConfigError

RECORD_NAME = "trackers.json"


class TrackerRecord:
    """Ids of the trackers' runs, and the last steps that were logged in them.

    Args:
        file: Its JSON file; None remembers nothing.
        run_key: Another training's record is as good as none.

    Raises:
        ConfigError: The file is damaged.
    """

    def __init__(self, file: Path | None, *, run_key: str) -> None:
        self._file, self._run_key = file, run_key
        self._entries: dict[str, dict[str, Any]] = {}
        if file is not None and file.is_file():
            try:
                found = json.loads(file.read_text(encoding="utf-8"))
                self._entries = dict(found["trackers"]) if found["run_key"] == run_key else {}
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{file}: damaged ({error}); delete it to begin new runs in the trackers"
                ) from error

    def run_of(self, name: str) -> str | None:
        """Id of the tracker's run that an earlier call began."""
        found = self._entries.get(name, {}).get("run")
        return None if found is None else str(found)

    def began(self, name: str, run: str) -> None:
        """The tracker works on this run."""
        self._entries.setdefault(name, {})["run"] = run
        self._write()

    def last_step(self, name: str, kind: str) -> int:
        """Number of the last step that the tracker was given; -1 for none."""
        return int(self._entries.get(name, {}).get("steps", {}).get(kind, -1))

    def logged(self, name: str, kind: str, step: int) -> None:
        """The tracker has been given this step."""
        self._entries.setdefault(name, {}).setdefault("steps", {})[kind] = step
        self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        # Without fsync, every step: a record that a power cut sets back costs a step that is there
        # twice.
        temporary = self._file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(
            json.dumps({"run_key": self._run_key, "trackers": self._entries}), encoding="utf-8"
        )
        temporary.replace(self._file)
