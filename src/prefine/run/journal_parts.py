"""Parts of a journal: one file for each task of an executor, absorbed when the tasks are done.

A task writes `journal/part-00017.sqlite` under a lease and reads the journal itself beside it. A
task that is done again, because its process was lost, finds in its part what the first one paid
for. Whoever opens the journal next takes over the parts that an end has left behind, so that the
journal alone is the truth whenever a stage begins, under whichever executor.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefine.atomic import disk_errors
from prefine.errors import ConfigError
from prefine.run.journal import Journal

LEASE_WAIT_S = 120.0
"""A file server takes up to 90 seconds to notice that the holder of a lock is gone."""
_TOGETHER = 64
"""Parts that are taken over between two waits for the disk."""


def part_file(journal: Path, number: int) -> Path:
    """The file of a part of a journal; 0 is the journal itself."""
    return journal.with_name(f"part-{number:05d}.sqlite")


def number_of(part: Path) -> int:
    """The number of a part, from its name."""
    return int(part.stem.removeprefix("part-"))


def parts_beside(journal: Path) -> list[Path]:
    """The parts that lie beside a journal, in order."""
    found = (path for path in journal.parent.glob("part-*.sqlite") if path != journal)
    return sorted(found, key=number_of)


def next_part(journal: Journal) -> int:
    """The first number that no part of this journal has ever had."""
    beside = parts_beside(journal.path)
    return 1 + max(journal.last_part(), number_of(beside[-1]) if beside else 0)


def absorb_parts(journal: Journal, *, wait_s: float = LEASE_WAIT_S) -> int:
    """Take over all parts that lie beside a journal, and remove them; return how many.

    Raises:
        ConfigError: A process still writes one of them.
        LimitError: The disk is full; nothing is lost.
    """
    return absorb_files(journal, parts_beside(journal.path), wait_s=wait_s)


def absorb_files(journal: Journal, parts: Iterable[Path], *, wait_s: float = LEASE_WAIT_S) -> int:
    """As `absorb_parts`, of some parts."""
    files = list(parts)
    for start in range(0, len(files), _TOGETHER):
        some = files[start : start + _TOGETHER]
        with ExitStack() as leases:
            for part in some:
                leases.enter_context(leased(part, wait_s=wait_s))
                journal.absorb(part, number_of(part))
            # A part may go when the disk has what it held.
            journal.sync()
            for part in some:
                _remove(part)
    return len(files)


@contextmanager
def leased(part: Path, *, wait_s: float = LEASE_WAIT_S) -> Iterator[None]:
    """Hold a part alone; the kernel lets go of it with the process.

    The lock is on a file of its own: SQLite's locks and ours must not meet on one file.

    Raises:
        ConfigError: Another process has not let go of it in time.
    """
    path = part.with_suffix(".lease")
    until = time.monotonic() + wait_s
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
                file.close()  # it was removed while we waited; take the new one
            except BlockingIOError as error:
                file.close()
                if time.monotonic() > until:
                    raise ConfigError(
                        f"{part}: another process still writes this part of the journal, {wait_s:g}"
                        " s after it should have ended; end it (a worker of Ray that lost its "
                        "driver ends by itself), and run the same command again"
                    ) from error
                time.sleep(0.05)
    with file:
        yield


def _remove(part: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        part.with_name(part.name + suffix).unlink(missing_ok=True)
    part.with_suffix(".lease").unlink(missing_ok=True)
