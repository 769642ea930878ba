"""Hand tasks to workers, do again those of workers that were lost, and take results in order.

Nothing here knows Ray: a pool is whatever starts workers and says what became of them.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from prefine.calls.counts import CallCounts
from prefine.errors import BackendError, Interrupted, PrefineError
from prefine.executors.protocol import StageWork
from prefine.executors.worker import ShardTask, TaskResult

_AHEAD = 8
"""Tasks that were done and wait for an earlier one, in multiples of the workers."""
_TRIES = 3
"""Workers that a task may lose before it is held to be at fault."""
_TICK_S, _BEAT_S = 0.2, 1.0
_STOP_S = 30.0
"""Time in which tasks notice that they should stop, and end; then their workers are ended."""


class Ready(NamedTuple):
    """A worker is prepared, or cannot be: `error` is as in `TaskResult`."""

    worker: int
    error: tuple[str, str] | None


class Finished(NamedTuple):
    """A worker has worked on its task."""

    worker: int
    result: TaskResult


class Lost(NamedTuple):
    """A worker is gone, with whatever it was doing."""

    worker: int
    reason: str


Event = Ready | Finished | Lost


class Pool(Protocol):
    """Starts workers and hands them tasks."""

    size: int

    def start(self) -> int:
        """Begin to start a worker; return its number, which no other ever has."""
        ...

    def submit(self, worker: int, task: ShardTask) -> None:
        """Hand a task to a worker that is ready and has none.

        Args:
            worker: Its number.
            task: The task.
        """
        ...

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Return the events since the last call, as soon as there is one.

        Args:
            timeout_s: When to return without anything.
        """
        ...


class Tally(Protocol):
    """The ledger as the process has it that hands out the tasks."""

    def total(self) -> CallCounts:
        """The counts of all tasks."""
        ...

    def end(self, task: int, counts: CallCounts | None) -> None:
        """As `Ledger.end`.

        Args:
            task: Which one.
            counts: Its counts; None if it was lost.
        """
        ...

    def stop(self) -> None:
        """Let all tasks know that they should stop."""
        ...


class Dispatch:
    """The tasks of one stage at work in a pool.

    Args:
        pool: Has the workers.
        work: The stage's work.
        tally: What all tasks count together.
        shards_per_task: How many shards go together.
        first_part: The number of the first task's part of the journal.
    """

    def __init__(
        self,
        pool: Pool,
        work: StageWork,
        tally: Tally,
        *,
        shards_per_task: int,
        first_part: int,
    ) -> None:
        self._pool, self._work, self._tally = pool, work, tally
        self._size, self._first_part = shards_per_task, first_part
        self._idle: deque[int] = deque()
        self._busy: dict[int, ShardTask] = {}
        self._again: deque[ShardTask] = deque()
        self._tries: dict[int, int] = {}
        self._done: dict[int, TaskResult] = {}
        self._next = 0
        self._lost = 0
        self._starting: set[int] = set()
        self._never_ready = 0  # workers lost so, since one was ready
        self._error: PrefineError | None = None
        self._stop_at = math.inf
        self._beat_at = 0.0
        self._notes: dict[str, None] = {}

    def run(self, shards: Iterable[Any], take: Callable[[Any], None]) -> list[str]:
        """Work on all shards; return notes.

        Raises:
            PrefineError: The first error of a task, or of what is done with its result.
            BackendError: A task has lost several workers, or no worker can be started.
        """
        try:
            return self._run(shards, take)
        except Exception as error:
            # What follows from an end that is under way does not hide why it began.
            if self._error is None or error is self._error:
                raise
            raise self._error from error

    def _run(self, shards: Iterable[Any], take: Callable[[Any], None]) -> list[str]:
        tasks = self._tasks(shards)
        for _ in range(self._pool.size):
            self._starting.add(self._pool.start())
        more = True
        while True:
            self._notice_stop()
            while more and self._error is None and self._idle and self._room():
                task = self._again.popleft() if self._again else next(tasks, None)
                if task is None:
                    more = False
                    break
                self._send(task)
            if not self._busy and (self._error is not None or (not more and not self._again)):
                break
            if time.monotonic() > self._stop_at:
                break  # the workers end with the pool; what they journaled is kept
            for event in self._pool.wait(_TICK_S):
                self._note(event)
                more |= bool(self._again)
            self._take(take)
            self._beat()
        self._show()
        if self._error is not None:
            raise self._error
        if self._lost:
            self._notes[
                f"{self._lost} workers were lost, and others did their shards again: only what was "
                "in flight was asked again"
            ] = None
        return list(self._notes)

    def _tasks(self, shards: Iterable[Any]) -> Iterator[ShardTask]:
        numbered = enumerate(shards)
        number = 0
        while some := list(islice(numbered, self._size)):
            yield ShardTask(number, self._first_part + number, some)
            number += 1

    def _room(self) -> bool:
        """True unless too many results wait for one that is late; it is being worked on."""
        return bool(self._again) or len(self._done) < _AHEAD * self._pool.size

    def _send(self, task: ShardTask) -> None:
        worker = self._idle.popleft()
        self._busy[worker] = task
        self._pool.submit(worker, task)

    def _note(self, event: Event) -> None:
        match event:
            case Ready(worker, None):
                self._starting.discard(worker)
                self._never_ready = 0
                self._idle.append(worker)
            case Ready(_, error):
                self._fail(_raised(TaskResult([], 0, (), CallCounts(), error)))
            case Finished(worker, result):
                task = self._busy.pop(worker)
                self._idle.append(worker)
                self._tally.end(task.number, result.counts)
                self._notes |= dict.fromkeys(result.notes)
                if result.error is None:
                    self._done[task.number] = result
                else:
                    self._fail(_raised(result))
            case Lost(worker, reason):
                self._lose(worker, reason)

    def _lose(self, worker: int, reason: str) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
        task = self._busy.pop(worker, None)
        if worker in self._starting:
            self._starting.discard(worker)
            self._never_ready += 1
            if self._never_ready >= _TRIES * self._pool.size:
                self._fail(BackendError(f"executor: no worker can be started ({reason})"))
        if task is not None:
            self._lost += 1
            self._tally.end(task.number, None)
            self._again.append(task)
            self._tries[task.number] = self._tries.get(task.number, 0) + 1
            if self._tries[task.number] >= _TRIES:
                first, last = task.shards[0][0], task.shards[-1][0]
                self._fail(
                    BackendError(
                        f"executor: the work on shards {first} to {last} has ended "
                        f"{_TRIES} workers ({reason}); look into the worker's memory (fewer "
                        "workers on a node, executor.num_cpus), then run the same command again"
                    )
                )
        if self._error is None:
            self._starting.add(self._pool.start())

    def _take(self, take: Callable[[Any], None]) -> None:
        """Hand on the results that are next in order."""
        while self._error is None and self._next in self._done:
            result = self._done.pop(self._next)
            self._next += 1
            self._work.advance(result.advanced)
            self._show()
            try:
                for one in result.results:
                    take(one)
            except PrefineError as error:
                self._fail(error)

    def _show(self) -> None:
        """Let the engine of this process have the counts of all."""
        if self._work.engine is not None:
            try:
                self._work.engine.show(self._tally.total())
            except PrefineError as error:
                self._fail(error)

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at > _BEAT_S:
            self._beat_at = time.monotonic()
            self._show()
            if self._work.engine is not None:
                self._work.engine.beat()

    def _notice_stop(self) -> None:
        if self._error is None and self._work.stopping():
            self._fail(Interrupted("stopped; the same command goes on from here"))

    def _fail(self, error: PrefineError) -> None:
        """Keep the first error, and let all tasks end."""
        if self._error is None:
            self._error = error
            self._stop_at = time.monotonic() + _STOP_S
            self._tally.stop()


def _raised(result: TaskResult) -> PrefineError:
    try:
        result.check()
    except PrefineError as error:
        return error
    raise AssertionError("a result without an error")
