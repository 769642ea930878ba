"""Workers as actors of Ray: started, handed tasks, and noticed when they are gone."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self

from prefine.calls.counts import CallCounts, Ledger
from prefine.errors import BackendError, noted_on
from prefine.executors.dispatch import Event, Finished, Lost, Ready
from prefine.executors.worker import Orders, ShardTask, Worker

_PATIENCE_S = 300.0
"""The longest wait for the first worker: a cluster may be starting nodes."""


class Resources(NamedTuple):
    """CPUs and GPUs that Ray sets aside for one worker."""

    num_cpus: float
    num_gpus: float


class RayPool:
    """Workers on a cluster that this process is connected to.

    Args:
        ray: The module.
        orders: Of every worker.
        size: How many workers.
        each: What Ray sets aside for each.
        earlier: What the stage has counted before.
    """

    def __init__(
        self, ray: Any, orders: Orders, *, size: int, each: Resources, earlier: CallCounts
    ) -> None:
        self.size = size
        self._ray = ray
        self._orders = orders
        self._each = each
        self._actor = ray.remote(Worker)
        self._workers: dict[int, Any] = {}
        self._waiting: dict[Any, tuple[int, bool]] = {}
        self._started = 0
        self._waited_s = 0.0
        self._any_ready = False
        # Next to the driver: with it, the stage ends anyway.
        self._ledger = (
            ray.remote(Ledger)
            .options(num_cpus=0, max_restarts=0, scheduling_strategy=_here(ray))
            .remote(orders.max_calls, orders.max_cost, earlier)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        with nullcontext() if error is None else noted_on(error):
            for actor in (*self._workers.values(), self._ledger):
                self._ray.kill(actor, no_restart=True)

    def start(self) -> int:
        """Begin to start a worker."""
        self._started += 1
        number = self._started
        options = {"num_cpus": self._each.num_cpus, "num_gpus": self._each.num_gpus}
        actor = self._actor.options(**options, max_restarts=0, max_task_retries=0).remote(
            self._orders, RayLedger(self._ledger)
        )
        self._workers[number] = actor
        self._waiting[actor.prepare.remote()] = (number, False)
        return number

    def submit(self, worker: int, task: ShardTask) -> None:
        """Hand a task to a worker."""
        self._waiting[self._workers[worker].work.remote(task)] = (worker, True)

    def wait(self, timeout_s: float) -> Sequence[Event]:
        """Return the events since the last call.

        Raises:
            BackendError: No worker could be placed for minutes.
        """
        waiting = list(self._waiting)
        ended, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout_s)
        if not ended and not self._any_ready:
            self._waited_s += timeout_s
            if self._waited_s > _PATIENCE_S:
                raise BackendError(
                    f"executor: for {_PATIENCE_S:g} s Ray could start none of {self.size} workers "
                    f"with {self._each.num_cpus:g} CPUs and {self._each.num_gpus:g} GPUs each; it "
                    f"has {self._ray.cluster_resources()}: lower executor.num_cpus or num_gpus, "
                    "or add nodes"
                )
        if ended:  # all that are there by now, in one go
            ended, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [self._event(reference) for reference in ended]

    def total(self) -> CallCounts:
        """The counts of all tasks."""
        found: CallCounts = self._ray.get(self._ledger.total.remote())
        return found

    def end(self, task: int, counts: CallCounts | None) -> None:
        """Count a task that has ended."""
        self._ledger.end.remote(task, counts)

    def stop(self) -> None:
        """Let all tasks know that they should stop."""
        self._ledger.stop.remote()

    def _event(self, reference: Any) -> Event:
        worker, working = self._waiting.pop(reference)
        lost = self._ray.exceptions
        try:
            found = self._ray.get(reference)
        except (lost.RayActorError, lost.ObjectLostError, lost.OutOfMemoryError) as error:
            # Its result may be lost while it lives; it is ended, so that none has two tasks.
            self._ray.kill(self._workers.pop(worker), no_restart=True)
            return Lost(worker, " ".join(str(error).split())[:300])
        self._any_ready = True
        return Finished(worker, found) if working else Ready(worker, found)


class RayLedger:
    """The ledger as a worker calls it; a beat waits for nothing.

    Args:
        actor: The ledger's.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._beat: Any = None

    def resume(self, task: int, sent: int) -> None:
        """As `Ledger.resume`; calls of one caller arrive in order."""
        self._actor.resume.remote(task, sent)

    def admit(self, task: int, more: int) -> int:
        """As `Ledger.admit`."""
        return int(_ray().get(self._actor.admit.remote(task, more)))

    def afford(
        self, task: int, counts: CallCounts, batch: int, in_flight: int
    ) -> tuple[float, bool]:
        """As `Ledger.afford`."""
        spent, fits = _ray().get(self._actor.afford.remote(task, counts, batch, in_flight))
        return float(spent), bool(fits)

    def beat(self, task: int, counts: CallCounts) -> bool:
        """Send the counts; True if the answer to the beat before, if it has come, was to stop."""
        ray, before, stopping = _ray(), self._beat, False
        if before is not None:
            ended, _ = ray.wait([before], timeout=0)
            if not ended:
                return False
            stopping = bool(ray.get(before))
        self._beat = self._actor.beat.remote(task, counts)
        return stopping


def _here(ray: Any) -> Any:
    """A scheduling strategy: on the node of this process."""
    strategies = ray.util.scheduling_strategies
    return strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )


def _ray() -> Any:
    import ray

    return ray
