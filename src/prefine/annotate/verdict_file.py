"""The file of one annotator: one writer under a lease, rows on the disk when they are written."""

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

from prefine.atomic import disk_errors, sync
from prefine.errors import ConfigError, DataError
from prefine.judges.human import HUMAN, HumanVerdict
from prefine.judging.recorded import read_verdicts

FOLDER = "annotations"
"""The folder of a run with a file for each annotator; no stage reads or writes it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class VerdictFile:
    """An open annotator's file, which nobody else can write meanwhile.

    Args:
        folder: Where the files of all annotators are.
        annotator: Letters, digits and . _ - only.

    Raises:
        ConfigError: The name cannot be a file's, the folder cannot be written, or another process
            annotates under this name.
        DataError: A row is damaged, or of another annotator.
    """

    def __init__(self, folder: Path, annotator: str) -> None:
        if not _NAME.fullmatch(annotator):
            raise ConfigError(
                f"--annotator {annotator!r}: names the file of your verdicts; use up to 64 "
                "letters, digits and . _ -, such as anna"
            )
        self.path = folder / f"{annotator}.jsonl"
        self.judge = HUMAN + annotator
        try:
            with disk_errors(self.path):
                folder.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except ConfigError as error:
            raise ConfigError(
                f"{self.path}: verdicts cannot be written here ({error.__cause__}); name another "
                "folder with --to"
            ) from error
        try:
            # The kernel drops the lock with the process, so a killed one leaves none behind.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise ConfigError(
                f"{self.path}: another process annotates as {annotator}; end it, or use another "
                "--annotator"
            ) from error
        try:
            self.rows = read_verdicts(self.path)
            if others := {row.judge for row in self.rows} - {self.judge}:
                raise DataError(
                    f"{self.path}: holds verdicts of {', '.join(sorted(others))}, not of "
                    f"{self.judge}; give the file its annotator's name, or use another --annotator"
                )
            # A row that a killed process has left unfinished was never taken for journaled.
            text = self.path.read_bytes()
            self._size = text.rfind(b"\n") + 1
            if self._size < len(text):
                os.ftruncate(self._file, self._size)
            sync(folder)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "VerdictFile":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def append(self, rows: Iterable[HumanVerdict]) -> None:
        """Write rows at the end; when this returns, they survive a kill and a power cut.

        Raises:
            LimitError: The disk is full; nothing of these rows is kept, everything earlier is.
        """
        added = list(rows)
        data = "".join(row.model_dump_json() + "\n" for row in added).encode()
        try:
            with disk_errors(self.path):
                written = 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
                os.fsync(self._file)
        except BaseException:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self.rows += added
