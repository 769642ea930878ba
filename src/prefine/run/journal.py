"""The journal: every paid answer, on disk before it is used.

One SQLite file with one writer. First a batch's keys are noted as asked, then the batch goes out,
then its answers are stored, because a key that is noted and has no answer was in flight when the
run was killed: those calls were perhaps paid for and are asked again, so they are counted. Of
failures only the cost is stored: the next run asks again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prefine.atomic import disk_errors
from prefine.errors import ConfigError, DataError, LimitError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS asked   (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failed  (key TEXT NOT NULL, usage TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS failed_key ON failed (key);
"""
_NOT_ALLOWED = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)
_CHUNK = 500  # SQLite's oldest limit on bound variables is 999


class Journal:
    """An append-only map from call key to answer (JSON text)."""

    what_is_kept = "What was answered is journaled; run the same command again to go on from there"

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._sqlite_errors():
            self._connection = sqlite3.connect(path, isolation_level=None)
            # A write-ahead log, synced at every commit: after `store` returns, no kill or power cut
            # loses an answer, and an unfinished transaction is rolled back on opening.
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(_SCHEMA)

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`."""
        return {
            key: answer
            for key, answer in self._select("SELECT key, answer FROM answers WHERE key IN", keys)
        }

    def interrupted(self, keys: Iterable[str]) -> int:
        """Count the `keys` that were asked and never answered: in flight when a run ended."""
        known = {row[0] for row in self._select("SELECT key FROM asked WHERE key IN", keys)}
        return len(known - self.answers(known).keys())

    def note_asked(self, keys: Iterable[str]) -> None:
        """Note that these calls are about to go out."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO asked VALUES (?)", ((key,) for key in keys)
            )

    def store(self, answers: Mapping[str, str]) -> None:
        """Keep answers; after this returns they survive a kill.

        Raises:
            LimitError: The disk is full; nothing of this batch is kept, everything earlier is.
        """
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO answers VALUES (?, ?) ON CONFLICT (key) DO NOTHING", answers.items()
            )

    def note_failed(self, usages: Mapping[str, str]) -> None:
        """Take back the note on calls that came back as failures; keep what they cost."""
        with self._transaction():
            self._connection.executemany(
                "DELETE FROM asked WHERE key = ?", ((key,) for key in usages)
            )
            self._connection.executemany("INSERT INTO failed VALUES (?, ?)", usages.items())

    def failed_usages(self, keys: Iterable[str]) -> list[str]:
        """The costs of failed attempts at `keys`, each a `Usage` as JSON."""
        return [usage for (usage,) in self._select("SELECT usage FROM failed WHERE key IN", keys)]

    def count(self) -> int:
        """The number of stored answers."""
        with self._sqlite_errors():
            (number,) = self._connection.execute("SELECT COUNT(*) FROM answers").fetchone()
        return int(number)

    def close(self) -> None:
        """Close the file; further calls are errors."""
        self._connection.close()

    def _select(self, statement: str, keys: Iterable[str]) -> list[tuple[str, ...]]:
        wanted = list(keys)
        rows: list[tuple[str, ...]] = []
        with self._sqlite_errors():
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                rows += self._connection.execute(f"{statement} ({marks})", chunk).fetchall()
        return rows

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._sqlite_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _sqlite_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code in _NOT_ALLOWED:
                raise ConfigError(
                    f"{self.path}: the journal cannot be written ({error}); make it writable, end "
                    "the process that "
                    "holds it, or use another --run-dir"
                ) from error
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise LimitError(
                    f"{self.path}: no space to write the journal ({error}). Everything journaled "
                    "so far is kept; "
                    "free some space and run the same command again"
                ) from error
            raise
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{self.path}: this journal is damaged ({error}). Restore it from a backup, or "
                "move it away to "
                "ask every call again"
            ) from error
