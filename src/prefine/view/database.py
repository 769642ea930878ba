"""DuckDB as the viewer uses it: Parquet files of the named folders, and nothing else outside.

Values of users and of links are parameters of statements, never part of their text.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

Values: TypeAlias = Sequence[Any]
_MEMORY, _THREADS = "320MB", 2


class Database:
    """A database in memory that may read below some folders; every thread has its own cursor.

    It loads no extension, writes no file and opens no connection.

    Args:
        folders: Below these lie the files that it may read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _MEMORY,
                "threads": _THREADS,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                # Instead of what does not fit into memory going to a folder of files.
                "temp_directory": "",
            },
        )
        self._connection.execute("SET GLOBAL parquet_metadata_cache = true")
        # A setting takes no parameter of a statement; it takes a value of the session, though.
        self._connection.execute("SET VARIABLE allowed = ?", [[f"{path}/" for path in folders]])
        self._connection.execute("SET allowed_directories = getvariable('allowed')")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._local = threading.local()
        self._cursors: list[duckdb.DuckDBPyConnection] = []

    def rows(self, statement: str, values: Values | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        return self._run(statement, values).fetchall()

    def dicts(self, statement: str, values: Values | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of a statement, each as a mapping of its columns."""
        done = self._run(statement, values)
        names = [column[0] for column in done.description or ()]
        return [dict(zip(names, row, strict=True)) for row in done.fetchall()]

    def interrupt(self) -> None:
        """End what is being computed, each with an error in its thread."""
        for cursor in list(self._cursors):
            cursor.interrupt()

    def _run(self, statement: str, values: Values | dict[str, Any]) -> duckdb.DuckDBPyConnection:
        cursor = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = self._local.cursor = self._connection.cursor()
            self._cursors.append(cursor)
        return cursor.execute(statement, values or None)
