"""All servers of a model: calls are spread over them, and one that dies is started again.

A call goes to the server that has the fewest in flight. If that one dies before it has answered,
the call is asked again at whichever is there first: another one, or the same one once it is back.
Refusals, timeouts and broken answers of a server that lives are the request layer's business
(`models/openai/requests.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from prefine.errors import BackendError
from prefine.models.served.replica import LAST_LINES, Replica

R = TypeVar("R")

_NOTICED_S = 1.0


class Fleet:
    """The servers of a model on one event loop; they are started by the first call.

    Args:
        replicas: The servers.
        max_restarts: How often each may be started again.
        what: The model and its engine, for messages.
        note: Called with remarks for the user.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        max_restarts: int,
        what: str,
        note: Callable[[str], None],
    ) -> None:
        self.replicas = replicas
        self._max_restarts, self._what, self._note = max_restarts, what, note
        self._tending: list[asyncio.Task[None]] = []
        self._lost: dict[int, str] = {}
        self._changed = asyncio.Event()

    async def ask(self, send: Callable[[Replica], Awaitable[R]]) -> R:
        """Return what a server answers.

        Args:
            send: Sends a request to this server; it is called again if the server dies meanwhile.

        Raises:
            BackendError: No server can be started, all have died too often, or `send` raised it.
        """
        while True:
            replica = await self._ready()
            # Held here: once the server is started again, `replica.down` is another one.
            down = replica.down
            with replica.asked():
                sending = asyncio.ensure_future(send(replica))
                died = asyncio.create_task(down.wait())
                try:
                    await asyncio.wait({sending, died}, return_when=asyncio.FIRST_COMPLETED)
                    if sending.done() and sending.exception() is not None:
                        # A connection breaks before anybody has seen that the process is dead.
                        await asyncio.wait({died}, timeout=_NOTICED_S)
                    if sending.done() and not (sending.exception() and down.is_set()):
                        replica.answered()
                        return sending.result()
                finally:
                    died.cancel()
                    sending.cancel()

    async def _ready(self) -> Replica:
        """Wait for a server, and return the one with the fewest calls in flight."""
        if not self._tending:
            self._tending = [asyncio.create_task(self._tend(replica)) for replica in self.replicas]
            for task in self._tending:
                task.add_done_callback(lambda _: self._announce())
        while True:
            for task in self._tending:
                if task.done():
                    task.result()  # raises what has ended it, but for a server that is left out
            if ready := [one for one in self.replicas if one.up]:
                return min(ready, key=lambda one: (one.in_flight, one.served))
            await self._changed.wait()

    async def _tend(self, replica: Replica) -> None:
        """Start a server, and start it again when it has died, as often as that is allowed."""
        restarts = 0
        while True:
            try:
                await replica.start()
                self._announce()
                why = await replica.until_down()
            except BackendError as error:
                if restarts == 0:
                    raise BackendError(f"{self._what}: {error}") from None
                why = f"started again, {error}"
            await asyncio.to_thread(replica.stop)
            self._note(f"server {replica.number + 1}: {_in_short(why)}")
            if restarts == self._max_restarts:
                self._lose(replica, why)
                return
            restarts += 1

    def _lose(self, replica: Replica, why: str) -> None:
        """Go on without a server, if another one is left."""
        self._lost[replica.number] = why
        if len(self._lost) == len(self.replicas):
            raise BackendError(
                f"{self._what}: no server is left, each died more often than max_restarts "
                f"({self._max_restarts}) allows; mend its arguments, or raise it. The last one: "
                f"{why}"
            )
        self._note(
            f"server {replica.number + 1} died more often than max_restarts "
            f"({self._max_restarts}) allows, and is left out"
        )

    def _announce(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def close(self) -> None:
        """Stop all servers, side by side."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        self.stop()

    def stop(self) -> None:
        """Stop all servers, side by side; return when they are gone."""
        for replica in self.replicas:
            replica.ask_to_stop()
        for replica in self.replicas:
            replica.stop()


def _in_short(why: str) -> str:
    """Return a reason with the last line of the server's output alone."""
    first, *lines = why.splitlines()
    if not lines:
        return first
    return f"{first.removesuffix(LAST_LINES)}; its last line: {lines[-1].strip()}"
