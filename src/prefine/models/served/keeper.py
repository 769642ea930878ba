"""A process between prefine and one server, which ends the server when prefine ends.

`kill -9` gives prefine no chance to stop its servers, so someone else has to notice. The keeper
holds the read end of a pipe that only prefine can write to: the kernel closes it whenever prefine
ends, however that happens, and the keeper then ends the server with everything that it started. It
also looks whether its parent is still the same, for the case that a fork of prefine holds the pipe
open. It stands in a session of its own, so that Ctrl-C in a terminal does not reach it, and the
server in another one, which can be killed as a group. On Linux it also adopts processes that left
the group (PR_SET_CHILD_SUBREAPER), and the server dies with the keeper (PR_SET_PDEATHSIG).

It is run as a file and imports the standard library only, so that it is there within milliseconds.
The first line of its input is JSON, see `main`; a closed input means stop. At its end it writes one
JSON object: `exit`, the server's exit code, and `said`, the end of the server's output.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

TAIL = 8192
"""The part of the server's output that is kept [bytes]: it has to fit into a pipe as JSON."""

_TICK_S = 0.25
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform.startswith("linux")
_LIBC = ctypes.CDLL(None)
_INPUT = 0


class _End(NamedTuple):
    """The server's exit code, negative for a signal, and the end of its output."""

    exit: int
    said: str


def main() -> None:
    """Keep the server of the specification that is read from the input.

    Its keys: `command`, the arguments; `environment`, variables beside those of this process;
    `gpus`, the places of the server's GPUs among those that this process sees, or null for all;
    `parent`, the process id of prefine; `grace_s`, the time from SIGTERM to SIGKILL.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    spec = json.loads(_first_line())
    if _LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        end = _keep(spec)
    except OSError as error:
        end = _End(127, f"it cannot be started: {error}")
    with suppress(OSError):  # nobody reads it any more
        sys.stdout.write(json.dumps(end._asdict(), ensure_ascii=False))
        sys.stdout.flush()


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        if not (read := os.read(_INPUT, 1)):
            sys.exit(0)  # prefine ended before it had said what to start
        line += read
    return line


def _keep(spec: Mapping[str, Any]) -> _End:
    """Run the server until it ends, or until prefine ends or wants it to."""
    process = subprocess.Popen(
        spec["command"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **_visible(spec["gpus"]), **spec["environment"]},
        start_new_session=True,
        preexec_fn=_die_with_parent if _LINUX else None,
    )
    assert process.stdout is not None
    output = _Output(process.stdout.fileno())
    try:
        while process.poll() is None and os.getppid() == spec["parent"]:
            readable, _, _ = select.select([_INPUT, *output.open], [], [], _TICK_S)
            if _INPUT in readable and not os.read(_INPUT, 4096):
                break
            output.read(readable)
    finally:
        _end_all(process, output, spec["grace_s"])
    return _End(process.returncode, output.tail.decode("utf-8", "replace"))


class _Output:
    """The end of what the server writes, read so that it never waits for a reader."""

    def __init__(self, file: int) -> None:
        self.open = [file]
        self.tail = b""

    def read(self, readable: Sequence[int]) -> None:
        """Read what there is, if the server's output is among `readable`."""
        for file in [one for one in self.open if one in readable]:
            chunk = os.read(file, 65536)
            self.tail = (self.tail + chunk)[-TAIL:]
            if not chunk:
                self.open = []

    def read_for(self, seconds: float) -> None:
        """Read for at most so long, or until there is something."""
        readable, _, _ = select.select(self.open, [], [], seconds)
        self.read(readable)


def _end_all(process: "subprocess.Popen[bytes]", output: _Output, grace_s: float) -> None:
    """End the server, its process group and what had left the group: politely, then at once."""
    deadline = time.monotonic() + grace_s
    _signal_group(process.pid, signal.SIGTERM)
    while time.monotonic() < deadline and (process.poll() is None or _group_lives(process.pid)):
        output.read_for(0.05)
        _reap(process.pid)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    # An adopted process may have children of its own, which are adopted when it is gone.
    while adopted := _adopted():
        for child in adopted:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
    while output.open and select.select(output.open, [], [], 0)[0]:
        output.read(output.open)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def _reap(server: int) -> None:
    """Collect adopted processes that have ended; the server itself is left to its own handle."""
    for child in _adopted():
        if child != server:
            with suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def _adopted() -> list[int]:
    """The children of this process: the server, and processes of its that lost their parent."""
    if not _LINUX:
        return []
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _visible(gpus: Sequence[int] | None) -> dict[str, str]:
    """The variable that shows the server its GPUs, counted among those that are visible here."""
    if gpus is None:
        return {}
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    shown = [names[gpu] if names != [""] else str(gpu) for gpu in gpus]
    return {"CUDA_VISIBLE_DEVICES": ",".join(shown)}


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
