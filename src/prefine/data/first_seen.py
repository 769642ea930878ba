"""A map on disk from each id to its first place: memory does not grow with a file's rows."""

import sqlite3
from typing import Any


class FirstSeen:
    """A map from id to the place where it was seen first.

    Args:
        database: Gets a table for it; without one, a temporary file that is deleted with the map.
    """

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        self._database = sqlite3.connect("") if database is None else database
        self._database.execute("CREATE TABLE first_seen (id TEXT PRIMARY KEY, place) WITHOUT ROWID")
        self.count = 0

    def get(self, id_: str) -> Any:
        """The place that was added for an id, or None."""
        found = self._database.execute(
            "SELECT place FROM first_seen WHERE id = ?", (id_,)
        ).fetchone()
        return None if found is None else found[0]

    def add(self, id_: str, place: str | int) -> None:
        """Add an id that is not there yet."""
        self._database.execute("INSERT INTO first_seen VALUES (?, ?)", (id_, place))
        self.count += 1
