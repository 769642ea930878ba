"""A host that is asked: its pace, and whether it is there at all.

Requests fail for two reasons that look alike: the server is away, or it cannot stand this one
prompt. So whoever fails asks something harmless, a *probe*. If the probe is answered, the prompt is
at fault; if not, all who ask this host wait together until a probe is answered.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary

from prefine.calls.limits import HostLimits
from prefine.errors import BackendError

_FAULTS_IN_A_ROW = 8
"""So many attempts in a row without any answer, whoever made them, call for a probe."""

_FIRST_PROBE_S, _PROBES_S = 1.0, 10.0
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 8.0


class Host:
    """Limits and health of a host, shared by all models there. Belongs to one event loop."""

    def __init__(self, origin: str, limits: HostLimits) -> None:
        self.origin = origin
        self.limits = limits
        self.reached = False
        """A connection was made."""
        self.served_at: float | None = None
        """When a request was answered well last [s, monotonic]."""
        self.failed_in_a_row = 0
        """Requests that were given up since one was answered well."""
        self.refusing_since: float | None = None
        """When the first of the refusals (429) was since one was answered well."""
        self.asks_to_wait = False
        """One of those refusals said how long to wait."""
        self.judging = asyncio.Lock()
        """Held while it is found out whether a failure is the server's or the prompt's."""
        self._answered_at = -math.inf
        self._faults = 0
        self._return: asyncio.Task[None] | None = None

    def served(self) -> None:
        """Count a good answer."""
        self.answered()
        self.served_at = self._answered_at
        self.failed_in_a_row = 0
        self.refusing_since = None
        self.asks_to_wait = False

    def refused(self, sent_at: float, wait_s: float | None, *, before: float | None) -> None:
        """Count a 429, and slow all requests down.

        Args:
            sent_at: When the refused request was sent [s, monotonic].
            wait_s: The time that the host asks to wait.
            before: When it was refused before, if so. If others were served since then, it may be
                the request that is refused and not the pace.
        """
        self.answered()
        if before is None or not self.served_since(before):
            self.limits.refused(sent_at, wait_s)
        elif wait_s:
            self.limits.pause(wait_s)
        self.asks_to_wait |= wait_s is not None
        if self.refusing_since is None:
            self.refusing_since = self._answered_at

    def answered(self) -> None:
        """Count an answer, be it a refusal: the server is there and at work."""
        self.reached = True
        self._answered_at = time.monotonic()
        self._faults = 0

    def faulted(self, *, reached: bool) -> None:
        """Count an attempt without such an answer."""
        self.reached |= reached
        self._faults += 1

    @property
    def seems_away(self) -> bool:
        """True after several attempts in a row without any answer."""
        return self._faults >= _FAULTS_IN_A_ROW

    def answered_since(self, moment: float) -> bool:
        """True if there was an answer, to whomever, since then [s, monotonic]."""
        return self._answered_at > moment

    def served_since(self, moment: float) -> bool:
        """True if a request was answered well since then [s, monotonic]."""
        return self.served_at is not None and self.served_at > moment

    async def until_present(self) -> None:
        """Wait while the host is away."""
        while self._return is not None:
            await self._wait_for(self._return)

    async def recover(
        self, probe: Callable[[], Awaitable[bool]], patience_s: float, reason: str
    ) -> bool:
        """Return once a probe is answered, for all who wait; True if the first one was not.

        Args:
            probe: Asks something harmless; true if there was an answer.
            patience_s: How long to try.
            reason: Why the caller thinks that the host is away, for the message.

        Raises:
            BackendError: It did not come back in time.
        """
        called = time.monotonic()
        if self._return is None:
            async with self.judging:
                if self._return is None and not self.answered_since(called):
                    if await probe():
                        self.answered()
                        return False
                    self._return = asyncio.create_task(self._until_back(probe, patience_s, reason))
        if self._return is None:
            return False  # somebody else was answered while this one waited
        await self._wait_for(self._return)
        return True

    async def _wait_for(self, task: "asyncio.Task[None]") -> None:
        # Whoever is cancelled while waiting leaves the task to the others.
        await asyncio.shield(task)

    async def _until_back(
        self, probe: Callable[[], Awaitable[bool]], patience_s: float, reason: str
    ) -> None:
        began, pause = time.monotonic(), _FIRST_PROBE_S
        try:
            while True:
                left = began + patience_s - time.monotonic()
                if left <= 0:
                    raise BackendError(
                        f"{self.origin}: no answer for {patience_s:g} s ({reason}); start or mend "
                        "the server, or raise patience_s"
                    )
                await asyncio.sleep(min(pause, left))
                if await probe():
                    self.answered()
                    return
                pause = min(2 * pause, _PROBES_S)
        finally:
            self._return = None


def backoff_s(tries: int) -> float:
    """The pause after so many tries [s]; it doubles, and chance spreads it."""
    longest: float = min(_FIRST_BACKOFF_S * 2 ** (tries - 1), _LONGEST_BACKOFF_S)
    return longest * random.uniform(0.75, 1.0)


_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Host]] = WeakKeyDictionary()
_latest: dict[str, HostLimits] = {}


def host_at(origin: str) -> Host:
    """The host of this scheme, name and port, shared by all who ask it in this event loop.

    It begins at the pace that was learned in earlier event loops: a stage has one of its own.
    """
    hosts = _hosts.setdefault(asyncio.get_running_loop(), {})
    if origin not in hosts:
        hosts[origin] = Host(origin, _latest.get(origin, HostLimits()).elsewhere())
        _latest[origin] = hosts[origin].limits
    return hosts[origin]


def forget_hosts() -> None:
    """Forget the pace of all hosts, as a new process does."""
    _latest.clear()
