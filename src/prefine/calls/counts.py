"""Counts of calls of several processes, added up, and the limits that they share."""

from collections import Counter
from typing import Protocol

from pydantic import Field

from prefine.records import Record, Usage

_IDS_SHOWN = 3


class CallCounts(Record):
    """The counts of a `CallEngine`, which has their meaning."""

    asked: int = 0
    replayed: int = 0
    repeated: int = 0
    landed: int = 0
    usage: Usage = Usage()
    failures: dict[str, int] = Field(default_factory=dict)
    failed_keys: tuple[str, ...] = ()

    def __add__(self, other: "CallCounts") -> "CallCounts":
        return CallCounts(
            asked=self.asked + other.asked,
            replayed=self.replayed + other.replayed,
            repeated=self.repeated + other.repeated,
            landed=self.landed + other.landed,
            usage=self.usage + other.usage,
            failures=dict(Counter(self.failures) + Counter(other.failures)),
            failed_keys=(*self.failed_keys, *other.failed_keys)[:_IDS_SHOWN],
        )


class SharedLimits(Protocol):
    """Limits of calls and cost that an engine shares with those of other processes."""

    def admit(self, more: int) -> int:
        """The calls that all processes were granted before; these are granted if they fit.

        Args:
            more: How many.
        """
        ...

    def afford(self, counts: CallCounts, batch: int, in_flight: int) -> tuple[float, bool]:
        """Return the cost of all, and True if a batch may go out beside all that is in flight.

        Args:
            counts: Of the engine that asks.
            batch: Calls that it wants to send.
            in_flight: Those of its own that have not landed yet.
        """
        ...


class Ledger:
    """The counts of all tasks of a stage, and the limits that hold for them together.

    One process has it, and the others call it. A task's counts are those since its beginning,
    journaled answers included: so a task that was lost is forgotten and counts anew. The counts of
    a task that has ended are final: what its worker sent before may arrive after.

    Args:
        max_calls: As `CallEngine` has it.
        max_cost: As `CallEngine` has it.
        earlier: What the same stage has counted before these tasks.
    """

    def __init__(
        self,
        max_calls: int | None,
        max_cost: float | None,
        earlier: CallCounts = CallCounts(),  # noqa: B008 - it is frozen
    ) -> None:
        self._max_calls = max_calls
        self._max_cost = max_cost
        self._admitted = earlier.asked
        self._granted: Counter[int] = Counter()
        self._ended = earlier
        self._final: set[int] = set()
        self._running: dict[int, CallCounts] = {}
        self._in_flight: dict[int, int] = {}
        self._stopping = False

    def resume(self, task: int, sent: int) -> None:
        """Take back calls that were granted to a task and that a lost worker never sent.

        Args:
            task: Which one; nobody works on it yet.
            sent: The calls that it has sent, as its journal has them.
        """
        unsent = max(0, self._granted[task] - sent)
        self._granted[task] -= unsent
        self._admitted -= unsent

    def admit(self, task: int, more: int) -> int:
        """The calls that were granted before, to all; these are granted to a task if they fit."""
        before = self._admitted
        if self._max_calls is None or before + more <= self._max_calls:
            self._admitted += more
            self._granted[task] += more
        return before

    def afford(
        self, task: int, counts: CallCounts, batch: int, in_flight: int
    ) -> tuple[float, bool]:
        """The cost of all, and True if the task may send a batch, which then counts as sent."""
        self._keep(task, counts)
        self._in_flight[task] = in_flight
        total, flying = self.total(), sum(self._in_flight.values())
        assert self._max_cost is not None, "asked without a limit"
        fits = fits_cost(total.usage.cost, total.landed, batch, flying, limit=self._max_cost)
        if fits:
            self._in_flight[task] += batch
        return total.usage.cost, fits

    def beat(self, task: int, counts: CallCounts) -> bool:
        """Keep what a task has counted so far; True if it should stop."""
        self._keep(task, counts)
        return self._stopping

    def end(self, task: int, counts: CallCounts | None) -> None:
        """Count a task that has ended; one that was lost has no counts."""
        self._running.pop(task, None)
        self._in_flight.pop(task, None)
        if counts is not None:
            self._ended += counts
            self._final.add(task)

    def total(self) -> CallCounts:
        """The sum over all tasks."""
        return sum(self._running.values(), start=self._ended)

    def stop(self) -> None:
        """Let every task know, at its next beat, that it should stop."""
        self._stopping = True

    def _keep(self, task: int, counts: CallCounts) -> None:
        if task not in self._final:
            self._running[task] = counts


def fits_cost(spent: float, landed: int, batch: int, in_flight: int, *, limit: float) -> bool:
    """True if a batch stays within a cost when all in flight cost what calls did on average.

    A last batch that may exceed it goes out alone.
    """
    expected = spent / max(1, landed)
    return not in_flight or spent + (in_flight + batch) * expected <= limit
