"""Files of rows that grow during training, and are the same bytes however often it was interrupted."""

import os
from io import BufferedRandom
from pathlib import Path

from prefine.errors import DataError
from prefine.records import Record


class RowLog:
    """A file with a row a line; opening it cuts it back to the rows that a checkpoint knows of.

    Args:
        file: Made if it is missing; None keeps nothing.
        rows: How many were there when the checkpoint was written.
        step: That checkpoint's step, for the message.

    Raises:
        DataError: The file has fewer rows.
    """

    def __init__(self, file: Path | None, *, rows: int, step: int) -> None:
        self._handle: BufferedRandom | None = None
        if file is None:
            return
        lines = file.read_bytes().splitlines(keepends=True)[:rows] if file.is_file() else []
        if len(lines) < rows:
            raise DataError(
                f"{file} has {len(lines)} rows, its newest checkpoint is of step {step} and knows "
                f"{rows}; "
                "restore the file, or delete the checkpoints to train anew"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("r+b" if file.is_file() else "w+b")
        self._handle.truncate(sum(map(len, lines)))
        self._handle.seek(0, os.SEEK_END)

    def __enter__(self) -> "RowLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left."""
        if self._handle is not None:
            self._handle.close()

    def write(self, row: Record) -> None:
        """Append a row; it can be read at once."""
        if self._handle is not None:
            self._handle.write(row.model_dump_json().encode() + b"\n")
            self._handle.flush()

    def sync(self) -> None:
        """Make sure that the rows survive a crash."""
        if self._handle is not None:
            os.fsync(self._handle.fileno())
