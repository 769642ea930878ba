"""A worker: works on tasks, some shards each, in a process of its own.

The asks of a task go to its own part of the journal. Errors of ours cross the process as their
names and messages, everything else as the executor's library carries it.
"""

import os
import platform
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from prefine import errors
from prefine.calls.counts import CallCounts
from prefine.calls.engine import CallEngine
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError, PrefineError
from prefine.executors.protocol import JobOrder, ShardJob, Workplace
from prefine.run.journal import Journal
from prefine.run.journal_parts import leased, part_file


class LedgerClient(Protocol):
    """The stage's `Ledger`, as a worker calls it from its own process."""

    def resume(self, task: int, sent: int) -> None:
        """As `Ledger.resume`.

        Args:
            task: Which one.
            sent: Calls that its earlier workers have sent.
        """
        ...

    def admit(self, task: int, more: int) -> int:
        """As `Ledger.admit`.

        Args:
            task: Who asks.
            more: How many calls.
        """
        ...

    def afford(
        self, task: int, counts: CallCounts, batch: int, in_flight: int
    ) -> tuple[float, bool]:
        """As `Ledger.afford`.

        Args:
            task: Who asks.
            counts: What it has counted.
            batch: Calls to send.
            in_flight: Its calls in flight.
        """
        ...

    def beat(self, task: int, counts: CallCounts) -> bool:
        """As `Ledger.beat`, but it need not wait: the answer may be that to the beat before.

        Args:
            task: Whose counts they are.
            counts: What it has counted.
        """
        ...


class Orders(NamedTuple):
    """All that a worker is told before its first task. It is pickled.

    `config` is the configuration as `RunConfig.resolved` has it, under the limits of one worker.
    `paths` are those where the command looks for modules, `directory` is where it was started.
    `token` is the content of the file `token_file`, by which a worker knows the run folder.
    `journal` is None for work that asks nobody.
    """

    stage: str
    config: dict[str, Any]
    folder: Path
    directory: Path
    paths: tuple[str, ...]
    token_file: Path
    token: str
    versions: tuple[str, str]
    job: JobOrder
    journal: Path | None
    max_calls: int | None
    max_cost: float | None
    most_failures: float


class ShardTask(NamedTuple):
    """Shards that are worked on together, and the part of the journal that is theirs."""

    number: int
    part: int
    shards: list[tuple[int, Any]]


class TaskResult(NamedTuple):
    """The results of a task's shards, or the error that ended it, and its counts."""

    results: list[Any]
    advanced: int
    notes: tuple[str, ...]
    counts: CallCounts
    error: tuple[str, str] | None = None

    def check(self) -> None:
        """Raise the error that ended the task, if one did."""
        if self.error is not None:
            name, message = self.error
            raise getattr(errors, name, PrefineError)(message)


class Worker:
    """Works on one task at a time.

    Args:
        orders: What to do.
        ledger: What all workers count together.
    """

    def __init__(self, orders: Orders, ledger: LedgerClient) -> None:
        self._orders = orders
        self._ledger = ledger
        self._job: ShardJob | None = None
        self._stopping = False

    def prepare(self) -> tuple[str, str] | None:
        """Make the job; return the error if it cannot be made here."""
        try:
            self._prepare()
        except PrefineError as error:
            return named(error)
        return None

    def work(self, task: ShardTask) -> TaskResult:
        """Work on the shards of a task."""
        self._stopping = False
        advanced = 0
        results: list[Any] = []
        job, orders = self._job, self._orders
        assert job is not None, "prepared first"

        def advance(count: int) -> None:
            nonlocal advanced
            advanced += count

        def result(engine: CallEngine | None, error: PrefineError | None = None) -> TaskResult:
            counts = CallCounts() if engine is None else engine.counts
            found = None if error is None else named(error)
            return TaskResult(results, advanced, tuple(job.notes), counts, found)

        if orders.journal is None:
            return _tried(
                lambda: job.run(
                    task.shards, results.append, Workplace(None, advance, lambda: False)
                ),
                lambda error: result(None, error),
            )
        part = part_file(orders.journal, task.part)
        try:
            with leased(part), closing(Journal(part, base=orders.journal)) as journal:
                journal.note_stage(orders.stage)
                if orders.max_calls is not None:
                    self._ledger.resume(task.number, journal.sent())
                engine = self._engine(journal, task.number)
                place = Workplace(engine, advance, lambda: self._stopping)
                return _tried(
                    lambda: job.run(task.shards, results.append, place),
                    lambda error: result(engine, error),
                )
        except PrefineError as error:  # the part itself cannot be opened
            return result(None, error)

    def _engine(self, journal: Journal, task: int) -> CallEngine:
        def beat() -> None:
            self._stopping |= self._ledger.beat(task, engine.counts)

        orders = self._orders
        engine = CallEngine(
            journal,
            stage=orders.stage,
            max_calls=orders.max_calls,
            max_cost=orders.max_cost,
            most_failures=orders.most_failures,
            should_stop=lambda: self._stopping,
            on_heartbeat=beat,
            shared=_Shared(self._ledger, task),
        )
        return engine

    def _prepare(self) -> None:
        orders = self._orders
        node = platform.node()
        try:
            seen = orders.token_file.read_text(encoding="utf-8")
        except OSError:
            seen = ""
        if seen != orders.token:
            raise ConfigError(
                f"executor: node {node} does not see the run folder {orders.folder}; put run_dir "
                "on a file system that all nodes mount under the same path (NFS, Lustre, a "
                "ReadWriteMany volume), or run on one machine"
            )
        here = own_versions()
        if here != orders.versions:
            raise ConfigError(
                f"executor: node {node} has prefine {here[0]} under Python {here[1]}, and the "
                f"command runs {orders.versions[0]} under {orders.versions[1]}; install the same "
                "on all nodes"
            )
        sys.path += [path for path in orders.paths if path not in sys.path]
        # Paths in a configuration may be relative to the folder in which the command was started.
        if orders.directory.is_dir():
            os.chdir(orders.directory)
        config = RunConfig.model_validate({**orders.config, "run_dir": str(orders.folder)})
        self._job = orders.job.make(config, orders.folder)


class _Shared:
    """The ledger as the engine of one task sees it."""

    def __init__(self, ledger: LedgerClient, task: int) -> None:
        self._ledger, self._task = ledger, task

    def admit(self, more: int) -> int:
        return self._ledger.admit(self._task, more)

    def afford(self, counts: CallCounts, batch: int, in_flight: int) -> tuple[float, bool]:
        return self._ledger.afford(self._task, counts, batch, in_flight)


def own_versions() -> tuple[str, str]:
    """The versions of prefine and of Python in this process."""
    return version("prefine"), platform.python_version()


def named(error: PrefineError) -> tuple[str, str]:
    """An error as it crosses processes: the name of its class in `prefine.errors`, its message."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    name = next(name for name in kinds if hasattr(errors, name))
    return name, str(error)


def _tried(
    work: Callable[[], None], result: Callable[[PrefineError | None], TaskResult]
) -> TaskResult:
    try:
        work()
    except PrefineError as error:
        return result(error)
    return result(None)
