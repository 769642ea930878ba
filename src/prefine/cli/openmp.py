"""Choose how OpenMP's threads wait for each other; torch reads it when it is loaded."""

import fcntl
import os
import tempfile
from collections.abc import MutableMapping
from io import TextIOWrapper
from pathlib import Path

SPINS = "100000"
"""Rounds that a thread looks for work before it sleeps.

They take some tenths of a millisecond, as most layers do.
"""

_held: list[TextIOWrapper] = []


def choose_waiting(environment: MutableMapping[str, str], folder: Path | None = None) -> bool:
    """Let threads spin briefly if this process has the machine to itself, else sleep at once.

    Spinning saves a wake-up for every operation, which adds up where layers are small. Two
    processes that both spin on the same cores starve each other, so at most one of a user's does,
    for as long as it lives. A setting of the user's own wins.

    Args:
        environment: Where the settings go.
        folder: Where the spinning process is known; the system's folder for temporary files if
            None.

    Returns: True if they spin.
    """
    if "OMP_WAIT_POLICY" in environment or "GOMP_SPINCOUNT" in environment:
        return False
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    # A launcher's processes share the machine by design.
    if (
        "LOCAL_RANK" in environment
        or not _idle()
        or not _only_one(folder or Path(tempfile.gettempdir()))
    ):
        return False
    environment["GOMP_SPINCOUNT"] = SPINS
    return True


def _idle() -> bool:
    """Return True if at most half of the cores were busy in the last minute."""
    # Not every system tells which cores a process may use.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return os.getloadavg()[0] <= cores / 2


def _only_one(folder: Path) -> bool:
    """Return True if no other process of this user spins; the file is held while this one lives."""
    try:
        file = (folder / f"prefine-spins-{os.getuid()}").open("a")
    except OSError:  # a folder that cannot be written to costs speed, not the run
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _held.append(file)
    return True
