"""The lease of a run at a store: one machine at a time.

`lease/NUMBER.json` names the holder; the highest number holds. A file is made with its number only
where there is none (an exclusive write), so of two machines that take over, one gets it. The holder
counts a beat up; who wants the run watches it, and takes over when it has not moved for as long as
the holder said that it may stay still. No clock of another machine is read.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefine.errors import BackendError, ConfigError
from prefine.run.remote import Remote

FOLDER = "lease"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PIDS = Path("/proc/self/ns/pid")
_LOOK_S = 0.5
_TORN_READS = 10


class StoreLease:
    """The right to write a run, renewed by `beat`.

    Args:
        remote: The run.
        still_s: A holder whose beat has not moved for so long is taken to be gone.
        say: Is told that this waits.

    Attributes:
        number: Of this lease.
        last_writer: The number of the last lease before it under which the run may have been
            written; a holder that ended before it began to write has changed nothing.

    Raises:
        ConfigError: Another machine holds the run, and its beat moves.
    """

    def __init__(self, remote: Remote, still_s: float, say: Callable[[str], None]) -> None:
        self._remote, self._still_s = remote, still_s
        self._token, self._beats, self._writes = uuid4().hex, 0, False
        highest = _highest(remote)
        while True:
            if highest and (holder := _read(remote, highest)) is not None:
                _wait_until_gone(remote, highest, holder, say)
            before = _read(remote, highest) or {}
            self.last_writer = int(before.get("last_writer", highest))
            self.number, self._seen_at = highest + 1, _now()
            if remote.create(self._name, self._content()):
                break
            # Another machine was faster; whether it is alive is looked at in turn.
            highest = max(_highest(remote), self.number)

    def forget_earlier(self) -> None:
        """Delete the leases before this one."""
        earlier = [number for number in _numbers(self._remote) if number < self.number]
        self._remote.delete(map(_file, earlier))

    def begin_to_write(self) -> None:
        """Say that the run is written under this lease from now on.

        Raises:
            BackendError: Another machine has taken over, or the store does not answer.
        """
        self._writes = True
        self.beat()

    def beat(self) -> None:
        """Show that this process is alive.

        Raises:
            BackendError: Another machine has taken over, or the store does not answer.
        """
        if _highest(self._remote) != self.number or not self._is_ours():
            raise BackendError(
                f"{self._remote.url}: another machine has taken this run over, as nothing was "
                "heard of this one; it goes on there"
            )
        self._beats, began = self._beats + 1, _now()
        self._remote.overwrite(self._name, self._content())
        self._seen_at = began

    def check(self) -> None:
        """Return if no other machine can have taken over, as the last beat is not long ago.

        Raises:
            TimeoutError: It is.
        """
        if (still_s := _now() - self._seen_at) >= self._still_s:
            raise TimeoutError(f"the lease on this run was not renewed for {still_s:.1f} s")

    def release(self) -> None:
        """Say that this process has ended; the number stays taken."""
        if _highest(self._remote) == self.number:
            self._remote.overwrite(self._name, self._content(released=True))

    @property
    def _name(self) -> str:
        return _file(self.number)

    def _is_ours(self) -> bool:
        found = _read(self._remote, self.number)
        return found is not None and found.get("token") == self._token

    def _content(self, *, released: bool = False) -> bytes:
        value = {
            "token": self._token,
            "beat": self._beats,
            "still_s": self._still_s,
            "machine": _machine(),
            "host": platform.node(),
            "pid": os.getpid(),
            "last_writer": self.number if self._writes else self.last_writer,
            "released": released,
        }
        return (json.dumps(value) + "\n").encode()


def _wait_until_gone(
    remote: Remote, number: int, holder: dict[str, Any], say: Callable[[str], None]
) -> None:
    """Return once the holder of a lease has ended, or has not moved for as long as it may.

    Raises:
        ConfigError: It moves.
    """
    if holder.get("released") or _has_died_here(holder):
        return
    still_s, who = float(holder["still_s"]), f"{holder['host']}, pid {holder['pid']}"
    say(f"{remote.url} was being written by {who}; waiting {still_s:g} s for a sign of it")
    end = time.monotonic() + still_s
    while time.monotonic() < end:
        time.sleep(min(_LOOK_S, still_s / 4))
        now = _read(remote, number)
        if now is None or now.get("released"):
            return
        if now["beat"] != holder["beat"]:
            raise ConfigError(
                f"{remote.url}: another machine ({who}) is working on this run; wait for it, stop "
                "it, or use another --run-dir"
            )


def _has_died_here(holder: dict[str, Any]) -> bool:
    """Return True if the holder was a process of this machine, and is not there any more."""
    if holder["machine"] != _machine():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _machine() -> str:
    """The name of this machine since it was started, and of what its process numbers are valid in.

    Containers of one machine number their processes apart, even where they share its name.
    """
    boot = _BOOT.read_text().strip() if _BOOT.is_file() else ""
    numbers = _PIDS.stat().st_ino if _PIDS.exists() else ""
    return f"{platform.node()} {boot} {numbers}"


def _file(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _numbers(remote: Remote) -> list[int]:
    names = [name.rpartition("/")[2].removesuffix(".json") for name in remote.listing(FOLDER)]
    return sorted(int(name) for name in names if name.isdigit())


def _highest(remote: Remote) -> int:
    return max(_numbers(remote), default=0)


def _read(remote: Remote, number: int) -> dict[str, Any] | None:
    """The lease of this number; None if it is gone."""
    for _ in range(_TORN_READS):
        try:
            found: dict[str, Any] = json.loads(remote.read(_file(number)))
            return found
        except FileNotFoundError:
            return None
        except ValueError:  # a file system that shows a write before it has ended
            time.sleep(_LOOK_S / 5)
    return None
