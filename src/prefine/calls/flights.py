"""Batches in flight: slots for them, their journal entries before and after, and how they end."""

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol, TypeVar, cast

from prefine.calls.commits import GroupCommits
from prefine.calls.protocol import (
    A,
    Answering,
    AnswerLog,
    Backend,
    Batch,
    Call,
    Failure,
    P,
    SubmissionLog,
)
from prefine.calls.threads import in_threads
from prefine.errors import Interrupted

T = TypeVar("T")

GRACE_S = 2.0
"""Time that calls in flight are given once the user asks to stop; later ones are given up."""
_TICK_S = 0.1
_HEARTBEAT_S = 1.0


class Account(Protocol):
    """Counts calls and knows the limits; `CallEngine` is one."""

    asked: int
    repeated: int

    def affordable(self, batch: int, in_flight: int) -> bool:
        """True if `batch` more calls may go out.

        Args:
            batch: How many.
            in_flight: Those that have not landed yet.
        """
        ...

    def keep(self, answered: Mapping[str, Any]) -> None:
        """Count answers and failures.

        Args:
            answered: By key.
        """
        ...


class Flights:
    """The batches in flight of one `CallEngine.run`.

    Each is a task of its own. Once `_refusal` is set nothing goes out any more: whoever wants to
    send gets it raised, so that all of the work ends while what is in flight lands.
    """

    def __init__(
        self, account: Account, journal: AnswerLog, stage: str, should_stop: Callable[[], bool]
    ) -> None:
        self._account = account
        self._commits = GroupCommits(journal, stage)
        self._what_is_kept = journal.what_is_kept
        self._should_stop = should_stop
        self._slots: dict[int, _Slots] = {}
        self._flying: set[asyncio.Task[Any]] = set()
        self._landing: set[asyncio.Task[Any]] = set()
        self._outliving: set[asyncio.Task[Any]] = set()
        self._in_flight = 0
        self._one_landed = asyncio.Event()
        self._refusal: Exception | None = None
        self._stopped_at: float | None = None
        self.asking: dict[str, asyncio.Future[Any]] = {}
        """The answers that somebody is asking for, by key."""

    async def supervise(self, work: Coroutine[Any, Any, T], beat: Callable[[], None]) -> T:
        """Return the result of `work`; however it ends, first everything in flight lands.

        Args:
            work: Asks.
            beat: Called every second.
        """
        task = asyncio.create_task(work)
        beat_at = time.monotonic()
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_TICK_S)
                self._notice_stop()
                if time.monotonic() - beat_at > _HEARTBEAT_S:
                    beat_at = time.monotonic()
                    beat()
            return task.result()
        except asyncio.CancelledError:
            # Ctrl-C where nobody else handles it, so that `should_stop` knows nothing of it.
            self._stopped_at = self._stopped_at or time.monotonic()
            raise
        finally:
            task.cancel()
            self._refuse(Interrupted(f"stopped. {self._what_is_kept}"))
            for flight in self._outliving - self._landing:
                flight.cancel()
            while self._flying:
                await asyncio.wait(self._flying, timeout=_TICK_S)
                self._notice_stop()
            self._commits.close()

    @property
    def backends(self) -> list[Backend]:
        """Those that were asked, which may hold something open on the event loop."""
        return [slots.backend for slots in self._slots.values()]

    def check(self) -> None:
        """Raise what ends this run, if something does."""
        if self._stopped_at is None and self._should_stop():
            self._stopped_at = time.monotonic()
            self._refuse(Interrupted(f"stopped. {self._what_is_kept}"))
        if self._refusal is not None:
            raise self._refusal

    async def send(
        self,
        calls: Sequence[Call[P]],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        backend: Backend,
    ) -> dict[str, A | Failure]:
        """Send calls in batches as slots become free, and return all answers."""
        if (slots := self._slots.get(id(backend))) is None:
            slots = self._slots[id(backend)] = _Slots(backend, self._commits)
        loop = asyncio.get_running_loop()
        mine: dict[str, asyncio.Future[Any]] = {call.key: loop.create_future() for call in calls}
        self.asking |= mine
        flights: list[asyncio.Task[Mapping[str, A | Failure]]] = []
        try:
            waiting = iter(batches(list(calls)))
            while (batch := await self._next(waiting, slots)) is not None:
                flight = asyncio.create_task(self._fly(batch, slots))
                self._flying.add(flight)
                if slots.outlives:
                    self._outliving.add(flight)
                flight.add_done_callback(self._ended)
                flights.append(flight)
            if flights:
                await asyncio.wait(flights)
            answers: dict[str, A | Failure] = {}
            for flight in flights:
                if flight.cancelled():
                    self.check()
                answers |= flight.result()
            return answers
        finally:
            for key, future in mine.items():
                del self.asking[key]
                future.cancel()

    async def shared(self, answer: "asyncio.Future[T]") -> T:
        """Wait for an answer that somebody else is asking for."""
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self.check()
            raise

    async def _next(self, waiting: "Iterable[Batch[A]]", slots: "_Slots") -> "Batch[A] | None":
        """Wait for a slot, then read the next batch; keep the slot if there is one."""
        await slots.free.acquire()
        batch = None
        try:
            self.check()
            # Read now and not before: an earlier answer may change what goes out together.
            batch = next(iter(waiting), None)
            return batch
        finally:
            if batch is None:
                slots.free.release()

    async def _fly(self, batch: Batch[A], slots: "_Slots") -> Mapping[str, A | Failure]:
        """Note a batch in the journal, make its calls and journal the answers."""
        size = len(batch.keys)
        reserved = 0
        try:
            while not self._account.affordable(size, self._in_flight):
                self._one_landed.clear()
                # Calls of other processes land unseen, where they share the limit.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._one_landed.wait(), _TICK_S)
                self.check()
            reserved = size
            self._in_flight += reserved
            if not slots.outlives:
                await self._commits.asked(batch.keys)
                self._account.repeated = self._commits.repeated
            self._account.asked += size
            found = await slots.answer(batch.answer)
            self._landing.add(asyncio.current_task())  # type: ignore[arg-type]
            answered = {key: found[key] for key in batch.keys}
            await self._keep(answered)
            return answered
        except Exception as error:
            self._refuse(error)
            raise
        finally:
            self._in_flight -= reserved
            self._one_landed.set()
            slots.free.release()

    async def _keep(self, answered: Mapping[str, A | Failure]) -> None:
        good, bad = {}, {}
        for key, value in answered.items():
            if isinstance(value, Failure):
                bad[key] = value.usage.model_dump_json()
            else:
                good[key] = value.model_dump_json()
        await self._commits.landed(good, bad)
        self._account.keep(answered)
        for key, value in answered.items():
            if key in self.asking and not self.asking[key].done():
                self.asking[key].set_result(value)

    def _ended(self, flight: "asyncio.Task[Any]") -> None:
        self._flying.discard(flight)
        self._landing.discard(flight)
        self._outliving.discard(flight)
        if not flight.cancelled():
            flight.exception()  # its caller raises it, unless that was cancelled

    def _refuse(self, error: Exception) -> None:
        if self._refusal is None:
            self._refusal = error

    def _notice_stop(self) -> None:
        """Refuse further batches once the user asks to stop, and give up what is late then."""
        if self._stopped_at is None and self._should_stop():
            self._stopped_at = time.monotonic()
            self._refuse(Interrupted(f"stopped. {self._what_is_kept}"))
        if self._stopped_at is not None and time.monotonic() - self._stopped_at > GRACE_S:
            for flight in self._flying - self._landing:
                flight.cancel()


class _Slots:
    """The room of a backend: a slot for each batch in flight, and threads if it blocks."""

    def __init__(self, backend: Backend, log: SubmissionLog) -> None:
        self.backend = backend  # kept, because its id is the key to these slots
        self.free = asyncio.Semaphore(backend.concurrency)
        resume_from = getattr(backend, "resume_from", None)
        self.outlives = resume_from is not None
        """Its calls go on at the server when this process ends, and are found again."""
        if resume_from is not None:
            resume_from(log)
        self._in_thread = in_threads(_called, backend.concurrency)

    async def answer(self, answer: Answering[A]) -> Mapping[str, A | Failure]:
        """Make the calls of a batch."""
        if inspect.iscoroutinefunction(answer):
            return cast("Mapping[str, A | Failure]", await answer())
        return cast("Mapping[str, A | Failure]", await self._in_thread(answer))


async def close_backends(backends: Iterable[Backend]) -> None:
    """Close what backends hold open on this event loop; also the others, if one cannot."""
    async with AsyncExitStack() as stack:
        for backend in backends:
            if (aclose := getattr(backend, "aclose", None)) is not None:
                stack.push_async_callback(aclose)


def _called(answer: Callable[[], Any]) -> Any:
    return answer()
