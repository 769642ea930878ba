"""One server: it is started with its keeper, watched, and stopped."""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prefine.calls.http import NoReply, send
from prefine.errors import BackendError
from prefine.models.served import keeper
from prefine.models.served.engines import HOST, Launch

LAST_LINES = "; its last lines:"
"""Stands before the end of a server's output in messages."""

_TICK_S = 0.05
_STALL_S = 0.5
"""A tick that takes so long is the fault of this process: no server could be heard meanwhile."""
_LINES_SHOWN, _LONGEST_LINE = 15, 300
_HEALTH_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Patience:
    """The times after which a server counts as dead.

    Args:
        start_s: From its start to its first good health.
        health_every_s: Between two looks at its health.
        hang_s: Without good health, before it counts as dead.
        silent_s: With requests in flight and no answer to any, before it counts as dead.
        grace_s: From SIGTERM to SIGKILL.
    """

    start_s: float
    silent_s: float
    health_every_s: float = 2.0
    hang_s: float = 60.0
    grace_s: float = 10.0


class Replica:
    """One of the servers of a model; it has another port and another key at every start.

    Args:
        number: Of this one, from 0.
        launch: Its command line for a port and a key.
        gpus: The places of its GPUs among those of this process; None leaves it all there are.
        patience: How long it may be silent.
        ports: Ports that it and others have had, which are not taken again.
    """

    def __init__(
        self,
        number: int,
        launch: Callable[[int, str], Launch],
        gpus: Sequence[int] | None,
        patience: Patience,
        ports: set[int],
    ) -> None:
        self.number = number
        self.up = False
        self.down = asyncio.Event()
        self.in_flight = 0
        self.served = 0
        self.url = self.key = ""
        self._launch, self._gpus, self._patience = launch, gpus, patience
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._said: str | None = None
        self._reading = threading.Lock()
        self._silent_since = 0.0

    async def start(self) -> None:
        """Start the server and wait until it is well.

        Raises:
            BackendError: It ended, or was not well in time; with its own last words.
        """
        port = free_port(self._ports)
        self._ports.add(port)
        self.url, self.key = f"http://{HOST}:{port}", secrets.token_hex(24)
        launch = self._launch(port, self.key)
        self._said = None
        self.down = asyncio.Event()
        self._process = _keeper(launch, self._gpus, self._patience.grace_s)
        began = time.monotonic()
        while not await self._unless_ended(self._is_well()):
            seconds = time.monotonic() - began
            if self.has_ended:
                raise BackendError(f"the server ended after {seconds:.1f} s{self.last_words()}")
            if seconds > self._patience.start_s:
                await asyncio.to_thread(self.stop)
                raise BackendError(
                    f"the server is not healthy after {self._patience.start_s:g} s "
                    f"(start_timeout_s){self.last_words()}"
                )
            await asyncio.sleep(_TICK_S)
        self.up = True

    async def until_down(self) -> str:
        """Return why the server is of no use any more, once it is."""
        now = well_at = looked_at = time.monotonic()
        looking: asyncio.Task[bool] | None = None
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                before, now = now, time.monotonic()
                if now - before > _STALL_S:
                    well_at += now - before
                    self._silent_since = min(now, self._silent_since + now - before)
                if self.has_ended:
                    return f"it ended{self.last_words()}"
                if looking is None and now - looked_at > self._patience.health_every_s:
                    looking = asyncio.create_task(self._is_well())
                elif looking is not None and looking.done():
                    well_at = now if looking.result() else well_at
                    looking, looked_at = None, now
                if now - well_at > self._patience.hang_s + self._patience.health_every_s:
                    return f"it gave no sign of health for {self._patience.hang_s:g} s"
                if self.in_flight and now - self._silent_since > self._patience.silent_s:
                    return f"it answered nothing for {self._patience.silent_s:g} s (timeout_s)"
        finally:
            self.up = False
            self.down.set()
            if looking is not None:
                looking.cancel()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Count a request as in flight."""
        if not self.in_flight:
            self._silent_since = time.monotonic()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def answered(self) -> None:
        """Note that a request was answered."""
        self.served += 1
        self._silent_since = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """True if the server's process has ended."""
        return self._process is not None and self._process.poll() is not None

    def ask_to_stop(self) -> None:
        """Tell the keeper to end the server; `stop` waits for it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """End the server and everything that it started; return when it is gone."""
        self.up = False
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(self._patience.grace_s + 20)
        except subprocess.TimeoutExpired:
            # The keeper itself hangs; on Linux the server dies with it.
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.last_words()

    def last_words(self) -> str:
        """Return how the server ended and the last lines of its output, once it has ended."""
        with self._reading:
            if self._said is None and self._process is not None and self.has_ended:
                assert self._process.stdout is not None
                with self._process.stdout as output:
                    self._said = _in_words(output.read().decode("utf-8", "replace"), self.key)
            return self._said or ""

    async def _is_well(self) -> bool:
        """Ask for its health; a server without such a path is asked for its models."""
        headers = {"Authorization": f"Bearer {self.key}"}
        for path in ("/health", "/v1/models"):
            try:
                reply = await send(
                    "GET", self.url + path, None, headers, timeout_s=_HEALTH_TIMEOUT_S
                )
            except NoReply:
                return False
            if reply.status not in (404, 405):
                return reply.status == 200
        return False

    async def _unless_ended(self, looking: Awaitable[bool]) -> bool:
        """Return the answer of a look at the server; False at once if it ends meanwhile."""
        task = asyncio.ensure_future(looking)
        try:
            while not task.done() and not self.has_ended:
                await asyncio.wait({task}, timeout=_TICK_S)
            return task.done() and task.result()
        finally:
            task.cancel()


def free_port(taken: Collection[int]) -> int:
    """Return a port of this machine that nobody listens on, and none of those that are taken."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            if (port := int(probe.getsockname()[1])) not in taken:
                return port


def _keeper(
    launch: Launch, gpus: Sequence[int] | None, grace_s: float
) -> "subprocess.Popen[bytes]":
    """Start a keeper and tell it what to start."""
    spec: Mapping[str, object] = {
        "command": launch.command,
        "environment": launch.environment,
        "gpus": gpus,
        "parent": os.getpid(),
        "grace_s": grace_s,
    }
    process = subprocess.Popen(
        # -P: the folder of the file holds modules of ours that it must not find.
        [sys.executable, "-P", keeper.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin.flush()
    return process


def _in_words(report: str, key: str) -> str:
    """Return what a keeper has written as the end of a message: exit code and last lines."""
    try:
        found = json.loads(report)
        code, said = int(found["exit"]), str(found["said"])
    except (ValueError, KeyError, TypeError):
        code, said = None, report  # the keeper's own words
    lines = [_plain(line) for line in said.replace(key, "[key]").splitlines() if line.strip()]
    how = ""
    if code is not None:
        how = f" (exit code {code})" if code >= 0 else f" ({_signal_name(-code)})"
    shown = "".join(f"\n  {line}" for line in lines[-_LINES_SHOWN:])
    return f"{how}{LAST_LINES}{shown}" if shown else f"{how}, and said nothing"


def _plain(line: str) -> str:
    """Return a line without control characters, shortened."""
    text = "".join(one if one.isprintable() else " " for one in line).strip()
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}…"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
