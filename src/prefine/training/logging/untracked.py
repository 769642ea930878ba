"""What stands in place of trackers for a training that has none."""

from collections.abc import Mapping
from typing import Any


class Untracked:
    """Ignores every row; see `Trackers`."""

    notes: tuple[str, ...] = ()

    def __enter__(self) -> "Untracked":
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing was opened."""

    def log(self, kind: str, step: int, row: Mapping[str, Any]) -> None:
        """Ignore a row."""
