"""An executor whose workers are objects of this process, each of which may "die" at any call.

All that would cross processes is pickled. It is `{name: "own_workers:OwnWorkers"}` in a
configuration; what its workers do with a task is what they do under Ray.
"""

import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TypeVar

from prefine.calls.counts import CallCounts, Ledger
from prefine.config.sections import RunConfig
from prefine.executors.dispatch import Event, Finished, Lost, Ready
from prefine.executors.protocol import StageWork
from prefine.executors.spreading import work_on
from prefine.executors.worker import Orders, ShardTask, Worker

T = TypeVar("T")


class Dies(BaseException):
    """What a SIGKILL is to a worker of this process."""


def sent(value: T) -> T:
    """The value as another process would get it."""
    found: T = pickle.loads(pickle.dumps(value))
    return found


class OwnPool:
    """Workers in this process; chance says which of those that have a task does it next."""

    def __init__(self, orders: Orders, earlier: CallCounts, *, size: int, seed: int) -> None:
        self.size, self._orders = size, sent(orders)
        self._ledger = Ledger(orders.max_calls, orders.max_cost, earlier)
        self._workers: dict[int, Worker] = {}
        self._events: list[Event] = []
        self._tasks: dict[int, ShardTask] = {}
        self._random = random.Random(seed)
        self.total, self.end, self.stop = self._ledger.total, self._ledger.end, self._ledger.stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.clear()

    def start(self) -> int:
        number = len(self._workers) + 1
        self._workers[number] = worker = Worker(self._orders, self._ledger)
        self._events.append(Ready(number, worker.prepare()))
        return number

    def submit(self, worker: int, task: ShardTask) -> None:
        self._tasks[worker] = sent(task)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        events, self._events = self._events, []
        if self._tasks and not events:
            worker = self._random.choice(sorted(self._tasks))
            task = self._tasks.pop(worker)
            try:
                events.append(Finished(worker, sent(self._workers[worker].work(task))))
            except Dies:
                events.append(Lost(worker, "killed"))
        return events


class OwnWorkers:
    """Spreads the shards of a stage over objects of this process."""

    def __init__(self, *, workers: int = 3, seed: int = 0, shards_per_task: int = 1) -> None:
        self._workers, self._seed, self._each = workers, seed, shards_per_task

    def check(self, config: RunConfig) -> None:
        """Accept every configuration."""

    def run(
        self, work: StageWork, shards: Iterable[Any], take: Callable[[Any], None]
    ) -> Sequence[str]:
        def start(orders: Orders, earlier: CallCounts) -> OwnPool:
            return OwnPool(orders, earlier, size=self._workers, seed=self._seed)

        return work_on(work, shards, take, start, workers=self._workers, each=self._each)

    def close(self) -> None:
        """Do nothing."""
