"""Flags and notes of a reader: a JSON Lines file beside the run, never in it.

Every change is a line of its own at the end, and of a prompt the last line counts, so that nothing
is lost whatever else writes there.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import Field, ValidationError

from prefine.errors import ConfigError, DataError
from prefine.records import SCHEMA_VERSION, Record

LONGEST = 20_000
"""Characters of a note."""


class ReaderNote(Record):
    """A reader's word on a prompt: a flag, a note, both or, when taken back, neither."""

    schema_version: int = SCHEMA_VERSION
    prompt_id: str
    round: int = 0
    flag: bool = False
    note: str = Field("", max_length=LONGEST)
    at: str = ""


class NotesFile:
    """The notes of a run.

    Args:
        run: The run folder, or that of all rounds; a round's notes stand beside all rounds.
    """

    def __init__(self, run: Path) -> None:
        self.path = run.with_name(f"{run.name}.notes.jsonl")

    def state(self) -> tuple[int, int]:
        """The time and the size of the file; zeros without one."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_mtime_ns, found.st_size

    def read(self) -> list[ReaderNote]:
        """The last note of each prompt, in the order in which prompts were first noted.

        Raises:
            DataError: A line is no note.
        """
        found: dict[tuple[int, str], ReaderNote] = {}
        for note in self._lines():
            found[note.round, note.prompt_id] = note
        return [note for note in found.values() if note.flag or note.note]

    def add(self, note: ReaderNote) -> None:
        """Append a note.

        Raises:
            ConfigError: The file cannot be written.
        """
        stamped = note.model_copy(update={"at": datetime.now(UTC).isoformat(timespec="seconds")})
        line = json.dumps(stamped.model_dump(mode="json"), ensure_ascii=True) + "\n"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                _end_last_line(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be written ({error.strerror}); notes stand beside the run, "
                "so its parent folder must allow it"
            ) from error

    def _lines(self) -> Iterator[ReaderNote]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return
        lines = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield ReaderNote.model_validate_json(line)
            except ValidationError as error:
                if number == len(lines):
                    return
                raise DataError(
                    f"{self.path}, line {number}: not a note of a reader "
                    f"({error.errors()[0]['msg']}); mend or remove this line"
                ) from error


def _end_last_line(file: IO[bytes]) -> None:
    """Go to the end of the whole lines: half a line is what a killed process has left."""
    text = file.read()
    tail = text[text.rfind(b"\n") + 1 :]
    if not tail:
        return
    try:
        ReaderNote.model_validate_json(tail)
    except ValidationError:
        file.truncate(len(text) - len(tail))
        file.seek(0, os.SEEK_END)
    else:
        file.write(b"\n")
