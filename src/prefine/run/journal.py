"""The journal: every paid answer, on disk before it is used.

One SQLite file with one writer. First a call's key is noted as asked, then the call goes out, then
its answer is stored, because a key that is noted and has no answer was in flight when the run was
killed: those calls were perhaps paid for and are asked again, so they are counted. Of failures only
the cost is stored: the next run asks again.

Where several processes ask at a time, each writes a part of its own beside the journal, which
absorbs them when they are done (`run/journal_parts.py`).
"""

import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from prefine.atomic import disk_errors
from prefine.calls.protocol import JournalGroup, Submission
from prefine.errors import ConfigError, DataError, LimitError

if TYPE_CHECKING:  # a run at a URL
    from prefine.run.mirror import Mirror

_SCHEMA = """
CREATE TABLE IF NOT EXISTS asked   (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, checksum INTEGER)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failed  (key TEXT NOT NULL, usage TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS failed_key ON failed (key);
CREATE TABLE IF NOT EXISTS repeats (stage TEXT PRIMARY KEY, calls INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (token TEXT PRIMARY KEY, id TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batched (line TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS absorbed (part INTEGER PRIMARY KEY);
"""
# What a part adds, in this order. A call that was in flight when an earlier run ended and that the
# part has asked again was repeated; a failure takes back the note that its call was asked.
_ABSORB = """
INSERT INTO repeats SELECT stage, calls + (
    SELECT COUNT(*) FROM (SELECT key FROM part.asked UNION SELECT key FROM part.failed) AS again
    WHERE again.key IN (SELECT key FROM main.asked)
) FROM part.repeats WHERE true
    ON CONFLICT (stage) DO UPDATE SET calls = calls + excluded.calls;
DELETE FROM main.asked WHERE key IN (SELECT key FROM part.failed);
INSERT OR IGNORE INTO main.asked SELECT key FROM part.asked;
INSERT OR IGNORE INTO main.answers (key, answer, checksum)
    SELECT key, answer, checksum FROM part.answers;
INSERT INTO main.failed SELECT key, usage FROM part.failed;
INSERT OR REPLACE INTO main.batches SELECT token, id FROM part.batches;
INSERT OR REPLACE INTO main.batched SELECT line, token FROM part.batched;
"""
_NOT_ALLOWED = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)
_BUSY_MS = 5000  # as Python's sqlite3 has it
_CHUNK = 500  # SQLite's oldest limit on bound variables is 999
_REMEDY = "Restore it from a backup, or move it away to ask every call again"


class Journal:
    """An append-only map from call key to answer (JSON text).

    It may be written in one thread and read in another at the same time, each through a connection
    of its own: a reader does not wait for the disk.

    Args:
        path: The file; it is made if there is none.
        mirror: Keeps the run at a URL, and is told of every group.
        base: Another journal whose answers count as well. It is read only, and nobody may write it
            meanwhile.
    """

    what_is_kept = "What was answered is journaled; run the same command again to go on from there"

    def __init__(
        self, path: Path, mirror: "Mirror | None" = None, *, base: Path | None = None
    ) -> None:
        self.path, self._mirror = path, mirror
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._sqlite_errors():
            self._writer = self._connect()
            # A write-ahead log: an unfinished transaction is rolled back on opening. Without one,
            # as on some network file systems, each commit waits for the disk.
            (mode,) = self._writer.execute("PRAGMA journal_mode=WAL").fetchone()
            self._log = path.with_name(path.name + "-wal") if mode == "wal" else None
            self._writer.execute(f"PRAGMA synchronous={'NORMAL' if self._log else 'FULL'}")
            self._writer.executescript(_SCHEMA)
            columns = {row[1] for row in self._writer.execute("PRAGMA table_info(answers)")}
            if "checksum" not in columns:  # a journal of before there were any
                self._writer.execute("ALTER TABLE answers ADD COLUMN checksum INTEGER")
            self._reader = self._connect()
            self._readers = [self._reader]
            if base is not None:
                # Without locks or a shared index of its log, so that any number of machines may.
                uri = f"file:{quote(str(base.absolute()))}?immutable=1"
                self._readers.insert(0, sqlite3.connect(uri, uri=True, check_same_thread=False))
            self._any_failed = self._any("failed")
            self.empty = not self._any("answers") and not self._any_failed
        self.stored = 0
        """The answers that were written by this object."""

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`.

        Raises:
            DataError: An answer is not what was written.
        """
        found = {}
        for key, answer, checksum in self._select(
            "SELECT key, answer, checksum FROM answers WHERE key IN", keys
        ):
            # Answers of before there were checksums have none.
            if checksum is not None and checksum != _checksum(key, answer):
                raise DataError(f"{self.path}: answer {key} of this journal is damaged. {_REMEDY}")
            found[key] = answer
        return found

    def failed_usages(self, keys: Iterable[str]) -> list[str]:
        """The costs of failed attempts at `keys`, each a `Usage` as JSON."""
        if not self._any_failed:
            return []
        return [usage for (usage,) in self._select("SELECT usage FROM failed WHERE key IN", keys)]

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """The batch of each of these lines that was ever handed over to a server."""
        statement = "SELECT line, token, id FROM batched JOIN batches USING (token) WHERE line IN"
        return {line: Submission(token, id_) for line, token, id_ in self._select(statement, lines)}

    def write(self, group: JournalGroup) -> int:
        """Keep a group; after this returns it survives a kill, and after `sync` a power cut.

        A failure takes back the note that its call was asked. An answer is never overwritten. Of a
        run at a URL, the group is there soon, too.

        Returns: How many of `group.asked` were in flight when an earlier run ended.

        Raises:
            LimitError: The disk is full; nothing of this group is kept, everything earlier is.
            BackendError: The store at the URL does not answer.
        """
        repeated = self._write(group)
        if self._mirror is not None:
            self._mirror.journaled(self.path, group)
        return repeated

    def _write(self, group: JournalGroup) -> int:
        write = self._writer.executemany
        with self._transaction():
            for submission, lines in group.submitted:
                write("INSERT OR REPLACE INTO batches VALUES (?, ?)", [submission])
                write(
                    "INSERT OR REPLACE INTO batched VALUES (?, ?)",
                    ((line, submission.token) for line in lines),
                )
            # Before what is asked: a call may fail and be asked again.
            if group.failed:
                self._any_failed = True
                write("DELETE FROM asked WHERE key = ?", ((key,) for key in group.failed))
                write("INSERT INTO failed VALUES (?, ?)", group.failed.items())
            if group.answers:
                write(
                    "INSERT INTO answers (key, answer, checksum) VALUES (?, ?, ?) "
                    "ON CONFLICT (key) DO NOTHING",
                    ((key, text, _checksum(key, text)) for key, text in group.answers.items()),
                )
                self.stored += len(group.answers)
            if not group.asked:
                return 0
            new = write(
                "INSERT OR IGNORE INTO asked VALUES (?)", ((key,) for key in group.asked)
            ).rowcount
            repeated = len(group.asked) - new
            if repeated:
                self._writer.execute(
                    "INSERT INTO repeats VALUES (?, ?) "
                    "ON CONFLICT (stage) DO UPDATE SET calls = calls + excluded.calls",
                    (group.stage, repeated),
                )
            return repeated

    def sync(self) -> None:
        """Return once all that was written survives a power cut, too.

        It may run beside `write`, in another thread.

        Raises:
            LimitError: The disk is full.
        """
        if self._log is not None:
            with disk_errors(self._log), self._log.open("rb+") as log:
                os.fsync(log.fileno())

    def repeats(self, stage: str) -> int:
        """Count the calls of a stage that a run ended with in flight, and that were asked again."""
        with self._sqlite_errors():
            row = self._reader.execute(
                "SELECT calls FROM repeats WHERE stage = ?", (stage,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def count(self) -> int:
        """The number of stored answers."""
        with self._sqlite_errors():
            (number,) = self._reader.execute("SELECT COUNT(*) FROM answers").fetchone()
        return int(number)

    def sent(self) -> int:
        """The calls that were noted as asked in this file, each as often as it was."""
        with self._sqlite_errors():
            (number,) = self._reader.execute(
                "SELECT (SELECT COUNT(*) FROM asked) + (SELECT COUNT(*) FROM failed) + "
                "(SELECT COALESCE(SUM(calls), 0) FROM repeats)"
            ).fetchone()
        return int(number)

    def note_stage(self, stage: str) -> None:
        """Note the stage whose calls this part has, for the count of repeated ones."""
        with self._transaction():
            self._writer.execute("INSERT OR IGNORE INTO repeats VALUES (?, 0)", (stage,))

    def absorb(self, part: Path, number: int) -> None:
        """Take over all that a part holds; a part that was taken over already adds nothing.

        Args:
            part: Its file, which nobody writes any more; it stays.
            number: Its number, which no other part of this journal ever has.
        """
        Journal(part).close()  # one that a kill has left half made gets its tables
        with self._sqlite_errors():
            self._writer.execute("ATTACH ? AS part", (str(part),))
        try:
            with self._transaction():
                noted = "INSERT OR IGNORE INTO absorbed VALUES (?)"
                if self._writer.execute(noted, (number,)).rowcount:
                    for statement in _ABSORB.split(";\n"):
                        self._writer.execute(statement)
        finally:
            self._writer.execute("DETACH part")
        self._any_failed = self._any("failed")
        self.empty = not self._any("answers") and not self._any_failed

    def last_part(self) -> int:
        """The largest number of a part that was taken over; 0 without any."""
        with self._sqlite_errors():
            (number,) = self._reader.execute("SELECT MAX(part) FROM absorbed").fetchone()
        return int(number or 0)

    def settle(self, *, wait_s: float = 30.0) -> None:
        """Move all that is in the log into the file itself, for readers that know no log.

        Args:
            wait_s: For others that read it.

        Raises:
            ConfigError: Another process has read it for longer.
        """
        with self._sqlite_errors():
            self._writer.execute(f"PRAGMA busy_timeout={1000 * wait_s:.0f}")
            checkpoint = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (busy, _, _) = checkpoint.fetchone()
            self._writer.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        if busy:
            raise ConfigError(
                f"{self.path}: another process has been reading the journal for {wait_s:g} s, so "
                "that workers would not see all of its answers; end it (an open SQLite shell, a "
                "viewer), and run the same command again"
            )

    def close(self) -> None:
        """Close the file; further calls are errors."""
        for reader in self._readers:
            reader.close()
        self._writer.close()

    def _any(self, table: str) -> bool:
        found = f"SELECT EXISTS (SELECT 1 FROM {table})"
        return any(reader.execute(found).fetchone()[0] for reader in self._readers)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def _select(self, statement: str, keys: Iterable[str]) -> list[tuple[Any, ...]]:
        wanted = list(keys)
        rows: list[tuple[Any, ...]] = []
        with self._sqlite_errors():
            for start in range(0, len(wanted), _CHUNK):
                chunk = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                for reader in self._readers:
                    rows += reader.execute(f"{statement} ({marks})", chunk).fetchall()
        return rows

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is written inside, whole or not at all."""
        with self._sqlite_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
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
            raise DataError(f"{self.path}: this journal is damaged ({error}). {_REMEDY}") from error


def _checksum(key: str, answer: str) -> int:
    return zlib.crc32(f"{key} {answer}".encode())
