"""A run folder by URL: worked on in a folder of this machine, and kept at the URL meanwhile.

Three threads: answers go to the store in segments, at most a second after they were journaled;
finished files are looked for and uploaded; the lease is renewed. The loss with a machine is
bounded: when answers, or finished files, wait for longer than they may, the run waits for the
store, and when the store does not answer, the run stops.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefine.atomic import write_text
from prefine.calls.protocol import JournalGroup
from prefine.config.storage import StorageConfig
from prefine.errors import BackendError, PrefineError, noted_on
from prefine.run import segments
from prefine.run.fetch import SMALL
from prefine.run.open_mirrors import OPEN
from prefine.run.remote import Remote
from prefine.run.store_lease import FOLDER as LEASES
from prefine.run.store_lease import StoreLease

if TYPE_CHECKING:
    from prefine.run.segments import JournalPiece

SEGMENT_S = 1.0
"""Journaled answers wait at most so long until they are sent to the store."""
MOST_UNSENT = 1000
"""With so many answers that are not at the store, no further one is used before they are."""

_LOOK_S = 2.0
"""Finished files are looked for so often."""
_LOG_RATE = 2e6
"""A log that grows is sent again after as many seconds as it has this many bytes."""
_COMPACT = 64
"""Above so many segments, the whole journal is sent and they are deleted."""
_WORKERS = 8
_LAST_PATIENCE_S = 1.0
_STATE = ".mirror.json"
_MANIFEST = "manifest.json"
_LAST = {"hashes.json": 1, _MANIFEST: 2}
"""Files that say that others are whole; they are sent after those."""
_LOGS = (".jsonl", ".log")

_Stat = tuple[int, int]


@contextmanager
def mirrored(
    run_dir: Path, storage: StorageConfig | None, say: Callable[[str], None]
) -> Iterator[None]:
    """Keep a run folder at its URL for as long as a block runs; without a URL, do nothing.

    Args:
        run_dir: The folder of this machine.
        storage: The run's section `storage`, with the URL.
        say: Is told about waiting, what was moved aside, and what failed after Ctrl-C.

    Raises:
        ConfigError: Another machine works on the run, or the store may not be written.
        BackendError: The store does not answer, or another machine has taken over.
    """
    if storage is None or storage.url is None:
        yield
        return
    mirror = Mirror(run_dir, storage, say)
    OPEN[mirror.folder] = mirror
    try:
        yield
    except BaseException as error:
        # The error of the run comes first; what can still be kept, is.
        with noted_on(error):
            mirror.settle()
        with noted_on(error):
            mirror.close()
        if isinstance(error, KeyboardInterrupt):  # it ends without a message that has its notes
            say("; ".join(["interrupted", *getattr(error, "__notes__", ())]))
        raise
    else:
        try:
            mirror.settle()
        finally:
            mirror.close()
    finally:
        del OPEN[mirror.folder]


class Mirror:
    """A run folder and its copy at a URL, held under a lease.

    Args:
        run_dir: The folder of this machine; what is at the URL is fetched into it.
        storage: With the URL.
        say: Is told what the user should read.
    """

    def __init__(self, run_dir: Path, storage: StorageConfig, say: Callable[[str], None]) -> None:
        assert storage.url is not None
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = run_dir.resolve()
        self._storage = storage
        self.remote = Remote(storage.url, storage.options, storage.patience_s, self._may_change)
        self._leases = Remote(storage.url, storage.options, storage.patience_s)
        self._lease = StoreLease(self._leases, storage.lease_s, say)
        self._error: PrefineError | None = None
        self._changed = threading.Condition()
        self._unsent: dict[str, list[JournalGroup]] = {}
        self._unsent_answers = self._groups_journaled = self._groups_sent = 0
        self._unsent_since: float | None = None
        self._hurry = self._stopping = False
        self._segments = self._number = 0
        self._files = threading.Lock()
        self._sent: dict[str, _Stat] = {}
        self._sent_at: dict[str, float] = {}
        self._waiting_since: float | None = None
        self._threads: list[threading.Thread] = []
        # What is at the store may be large: the lease is renewed while it is fetched.
        self._start("lease", self._renew)
        try:
            self._begin(say)
        except BaseException:
            self._stop()
            raise
        self._start("segments", self._send_segments)
        self._start("files", self._send_files)

    def check(self) -> None:
        """Return at once, or after finished files that have waited for long are at the store.

        Raises:
            PrefineError: The store could not be written, or another machine has taken over.
        """
        with self._changed:
            while self._error is None and self._is_behind():
                self._changed.wait(0.2)
            if self._error is not None:
                raise self._error

    def journaled(self, journal: Path, group: JournalGroup) -> None:
        """Note a group that a journal has written; it is at the store soon.

        This waits while too many answers are not there, and for batches that were handed over to a
        server, which would be paid for twice.

        Raises:
            PrefineError: The store could not be written.
        """
        name = journal.resolve().relative_to(self.folder).as_posix()
        with self._changed:
            self._unsent.setdefault(name, []).append(group)
            self._unsent_answers += len(group.answers)
            self._groups_journaled += 1
            upto = self._groups_journaled if group.submitted else 0
            if self._unsent_since is None:
                self._unsent_since = time.monotonic()
            self._hurry = self._hurry or bool(group.submitted)
            self._changed.notify_all()
            while self._error is None and (
                self._groups_sent < upto or self._unsent_answers >= MOST_UNSENT
            ):
                self._changed.wait(0.2)
            if self._error is not None:
                raise self._error

    def settle(self) -> None:
        """Return once everything is at the store.

        Raises:
            PrefineError: It could not be written.
        """
        self._flush()
        self._sync_files(whole=True)
        if self._segments > _COMPACT:
            self._compact()

    def close(self) -> None:
        """Stop, and give the lease back."""
        self._stop(lambda: self._keep_state(clean=self._error is None))

    # -- beginning

    def _begin(self, say: Callable[[str], None]) -> None:
        """Bring the folder to what is at the URL, or go on with it if this machine wrote that."""
        if self._knows_only_beginnings():
            for name in (*SMALL, _STATE):
                (self.folder / name).unlink(missing_ok=True)
        state = self._state()
        if state is not None and state.get("fetching"):
            # A fetch that was cut off; all that is here is at the store.
            _empty(self.folder)
            state = None
        written_here = state is not None and self._lease.last_writer in (
            state["lease"],
            state.get("after"),
        )
        if written_here and state is not None:
            # However this attempt ends, the next one must know that it was of this folder.
            self._sent = {name: (stat[0], stat[1]) for name, stat in state["sent"].items()}
            self._keep_state(clean=False)
        self._lease.forget_earlier()
        stored = self.remote.listing()
        present = [one for one in self.folder.iterdir() if one.name != _STATE]
        theirs = [name for name in stored if not name.startswith(f"{LEASES}/")]
        if present and not written_here and theirs:
            aside = self.folder.with_name(f"{self.folder.name}.before-{self._lease.number:06d}")
            self.folder.rename(aside)
            self.folder.mkdir(mode=0o700)
            say(
                f"{self.remote.url} was written by another machine since; what was in "
                f"{self.folder} is now in {aside}"
            )
            present = []
        pieces = segments.pieces_of(stored)
        self._segments = sum(not one.whole for found in pieces.values() for one in found)
        if not present:
            self._keep_state(clean=False, fetching=True)
            self._fetch([name for name in stored if not _is_apart(name)], pieces)
        self._keep_state(clean=False)
        self._lease.begin_to_write()
        # Where this folder was worked on and not closed, the end of a journal may not be at the
        # store.
        is_whole = written_here and state is not None and state["clean"]
        if (present and not is_whole) or self._segments > _COMPACT:
            self._compact()

    def _knows_only_beginnings(self) -> bool:
        """Return True if there are no more than the small files that a command reads first."""
        return {one.name for one in self.folder.iterdir()} <= {*SMALL, _STATE}

    def _fetch(self, names: list[str], pieces: "dict[str, list[JournalPiece]]") -> None:
        with ThreadPoolExecutor(_WORKERS) as pool:
            list(pool.map(lambda name: self.remote.download(name, self.folder / name), names))
        for name in names:
            self._sent[name] = _stat(self.folder / name)
        for journal, found in pieces.items():
            segments.restore(self.remote, found, self.folder / journal)

    def _state(self) -> dict[str, Any] | None:
        """The state of the store when this machine last wrote there, as it knew it."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if found.get("url") == self.remote.url else None

    def _keep_state(self, *, clean: bool, fetching: bool = False) -> None:
        value = {
            "url": self.remote.url,
            "lease": self._lease.number,
            "after": self._lease.last_writer,
            "clean": clean,
            "fetching": fetching,
            "sent": self._sent,
        }
        write_text(self.folder / _STATE, json.dumps(value))

    # -- threads

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(
            target=self._guarded, args=(work,), name=f"prefine-{name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _stop(self, then: Callable[[], None] = lambda: None) -> None:
        """End the threads, and give the lease back after what is to be done before."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        try:
            then()
        finally:
            if self._error is not None:
                self._leases.patience_s = _LAST_PATIENCE_S
            with suppress(PrefineError):
                self._lease.release()

    def _may_change(self) -> None:
        """Return if the store is this process's to write at this moment.

        Raises:
            PrefineError: It is not any more.
            TimeoutError: Another machine may take over; a beat of the lease can still come first.
        """
        if self._error is not None:
            raise self._error
        self._lease.check()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PrefineError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the run must hear of it, whatever it is
            self._fail(BackendError(f"{self.remote.url}: {type(error).__name__}: {error}"))

    def _fail(self, error: PrefineError) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _send_segments(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and not self._is_due():
                    self._changed.wait(0.05)
                if self._error is not None or (self._stopping and not self._unsent):
                    return
                groups, answers = self._unsent, self._unsent_answers
                self._unsent, self._hurry = {}, False
            for journal, found in groups.items():
                self._number += 1
                piece = segments.JournalPiece(self._lease.number, self._number, False, journal)
                self.remote.write(piece.name, segments.encode(found))
            with self._changed:
                self._segments += len(groups)
                self._unsent_answers -= answers
                self._groups_sent += sum(map(len, groups.values()))
                self._unsent_since = time.monotonic() if self._unsent else None
                self._changed.notify_all()

    def _is_due(self) -> bool:
        if not self._unsent or self._unsent_since is None:
            return False
        waited = time.monotonic() - self._unsent_since
        return self._hurry or waited >= SEGMENT_S or self._unsent_answers >= MOST_UNSENT

    def _flush(self) -> None:
        """Return once all that was journaled before this call is at the store."""
        with self._changed:
            upto = self._groups_journaled
            # The next segment has all of that, but for what is being sent already.
            self._hurry = self._hurry or bool(self._unsent)
            self._changed.notify_all()
            while self._error is None and self._groups_sent < upto:
                self._changed.wait(0.05)
            if self._error is not None:
                raise self._error

    def _send_files(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping or self._error, _LOOK_S):
                    return
            self._sync_files(whole=False)

    def _renew(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(
                    lambda: self._stopping or self._error, self._storage.lease_s / 4
                ):
                    return
            # It ends, or has failed, before another machine may take over.
            with self._leases.within(self._storage.lease_s / 2):
                self._lease.beat()

    # -- files

    def _is_behind(self) -> bool:
        since = self._waiting_since
        return since is not None and time.monotonic() - since > self._storage.behind_s

    def _sync_files(self, *, whole: bool) -> None:
        """Send the files that have changed, and delete those that are gone.

        Args:
            whole: Send logs that grow, too, however lately they were sent.
        """
        with self._files:
            # Older than all that it speaks of: it may say less than is at the store, never more.
            manifest = self._manifests()
            found = {name: stat for name, stat in self._present() if name not in manifest}
            changed = {name for name, stat in found.items() if self._sent.get(name) != stat}
            # A checkpoint goes on in logs that have all its steps.
            whole = whole or any("checkpoints/" in name for name in changed)
            due = [name for name in changed if whole or self._is_due_file(name, found[name])]
            if due and self._waiting_since is None:
                self._waiting_since = time.monotonic()
            if due:
                self._flush()
            due.sort(key=lambda name: (_LAST.get(name.rpartition("/")[2], 0), name))
            ordered = [name for name in due if name.rpartition("/")[2] not in _LAST]
            with ThreadPoolExecutor(_WORKERS) as pool:
                list(pool.map(self._send, ordered))
            for name in due[len(ordered) :]:
                self._send(name)
            for name, (content, stat) in manifest.items():
                if self._sent.get(name) != stat:
                    self._flush()
                    self.remote.write(name, content)
                    self._sent[name] = stat
            gone = [name for name in self._sent if not (self.folder / name).exists()]
            self.remote.delete(gone)
            for name in gone:
                del self._sent[name]
            if due or gone:
                self._keep_state(clean=False)
            with self._changed:
                self._waiting_since = None
                self._changed.notify_all()

    def _send(self, name: str) -> None:
        path = self.folder / name
        try:
            stat = _stat(path)
            self.remote.upload(path, name)
        except FileNotFoundError:  # deleted or renamed since it was seen
            return
        self._sent[name], self._sent_at[name] = stat, time.monotonic()

    def _is_due_file(self, name: str, stat: _Stat) -> bool:
        if not name.endswith(_LOGS) and "trackers/" not in name:
            return True
        since = time.monotonic() - self._sent_at.get(name, -1e9)
        return since > max(_LOOK_S, stat[0] / _LOG_RATE)

    def _manifests(self) -> dict[str, tuple[bytes, _Stat]]:
        """The manifests as they are at this moment: of the run, or of all rounds and each."""
        found = {}
        for path in (self.folder / _MANIFEST, *self.folder.glob(f"*/{_MANIFEST}")):
            with suppress(FileNotFoundError):
                stat = _stat(path)
                found[path.relative_to(self.folder).as_posix()] = (path.read_bytes(), stat)
        return found

    def _present(self) -> Iterator[tuple[str, _Stat]]:
        """The finished files: all but hidden ones, which are being written, and journals."""
        for place, folders, files in os.walk(self.folder):
            folders[:] = sorted(one for one in folders if not one.startswith("."))
            for file in files:
                path = Path(place, file)
                name = path.relative_to(self.folder).as_posix()
                if file.startswith(".") or file.endswith(".tmp") or ".sqlite" in file:
                    continue
                with suppress(FileNotFoundError):
                    yield name, _stat(path)

    def _compact(self) -> None:
        """Send whole journals, and delete what they make superfluous."""
        for path in self.folder.rglob("journal/part-*.sqlite"):
            journal = path.relative_to(self.folder).as_posix()
            piece = segments.JournalPiece(self._lease.number, self._number, True, journal)
            copy = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                segments.snapshot(path, copy)
                self.remote.upload(copy, piece.name)
            finally:
                copy.unlink(missing_ok=True)
            stored = self.remote.listing(journal.removesuffix(".sqlite"))
            earlier = segments.pieces_of(stored).get(journal, [])
            self.remote.delete(one.name for one in earlier if one[:2] <= piece[:2] and one != piece)
        self._segments = 0


def _empty(folder: Path) -> None:
    for one in folder.iterdir():
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one)
        else:
            one.unlink()


def _stat(path: Path) -> _Stat:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_apart(name: str) -> bool:
    """Return True for what is at the store only: leases and pieces of journals."""
    return name.startswith(f"{LEASES}/") or segments.is_piece(name)
