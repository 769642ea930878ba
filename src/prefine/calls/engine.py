"""The call engine: an answer that was journaled is never asked for again.

A call is a key and a payload for whoever answers it. The engine looks the keys up in the journal
and asks only for the rest, batch by batch: first it notes the batch's keys in the journal, then
sends the batch, then journals the answers, and only then its caller sees them. So the keys that a
kill leaves noted and unanswered are those that were in flight. Failures are returned as failures
and only their cost is journaled: the next run asks again.

All this happens on one event loop, where thousands of calls may wait side by side; `concurrency` of
the backend limits those in flight. A batch in flight is a task of its own: whatever ends its
caller, it lands and is journaled, because it has been paid for.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from prefine.calls.counts import CallCounts, SharedLimits, fits_cost
from prefine.calls.flights import Flights, close_backends
from prefine.calls.protocol import A, AnswerLog, Backend, Batch, Call, Failure, P
from prefine.errors import BackendError, DataError, LimitError
from prefine.records import Record, Usage

T = TypeVar("T")

_IDS_SHOWN = 3
_RATE_OVER = 10
"""Heartbeats over which the rate is taken."""


class CallEngine:
    """Asks, journals and counts.

    `asked` counts the calls that went out in this run, `landed` the answers and failures that have
    come, those of the journal included. `usage` is the cost of all answers that were
    wanted, in whichever run they were asked for: journaled ones and failed attempts included, each
    once.

    Args:
        journal: Where answers are kept.
        stage: Whose calls they are, for the count of repeated ones.
        max_calls: Stop with LimitError before more calls than this are made in this run.
        max_cost: Stop with LimitError before `usage` costs more than this [the unit of the user's
            prices]; the calls in flight are expected to cost what the others did on average.
        most_failures: Stop with LimitError once more calls than this have failed.
        should_stop: If it turns true, no further batch goes out, and what does not land within
            `GRACE_S` is given up.
        on_answers: Called with the number of new answers, from the journal or by asking.
        on_heartbeat: Called every second while it runs, and at its end.
        shared: Knows what other processes ask beside this one, so that `max_calls` and `max_cost`
            hold for all of them together.
    """

    def __init__(
        self,
        journal: AnswerLog,
        *,
        stage: str = "",
        max_calls: int | None = None,
        max_cost: float | None = None,
        most_failures: float = math.inf,
        should_stop: Callable[[], bool] = lambda: False,
        on_answers: Callable[[int], None] = lambda count: None,
        on_heartbeat: Callable[[], None] = lambda: None,
        shared: SharedLimits | None = None,
    ) -> None:
        self.journal = journal
        self.stage = stage
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.most_failures = most_failures
        self._on_answers = on_answers
        self._on_heartbeat = on_heartbeat
        self._should_stop = should_stop
        self._shared = shared
        self.asked = 0
        self.replayed = 0
        self.repeated = 0
        self.failures: Counter[str] = Counter()
        self.failed_keys: list[str] = []
        self.usage = Usage()
        self._admitted = 0
        self.landed = 0
        self._counted: set[str] = set()
        self._beats: deque[tuple[float, int]] = deque(maxlen=_RATE_OVER)
        self._flights: Flights | None = None
        self._runner: asyncio.Runner | None = None
        self._backends: dict[int, Backend] = {}

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let all `run`s of a block share an event loop, at whose end the backends close.

        So servers that the first of them has started answer the others, too.
        """
        self._runner = asyncio.Runner()
        try:
            yield
        finally:
            _beside_any_loop(self._close)

    def _close(self) -> None:
        assert self._runner is not None, "inside of kept_open"
        backends, self._backends = self._backends, {}
        with closing(self._runner) as runner:
            self._runner = None
            if backends:
                runner.run(close_backends(backends.values()))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work`, which asks through this engine, to its end on an event loop.

        Also where an event loop runs already, as in a notebook: then in a thread of its own.

        Raises:
            BackendError: A model or server does not answer any more.
            LimitError: A limit is reached.
            Interrupted: `should_stop` became true; what has landed is journaled.
        """
        return _beside_any_loop(lambda: self._run(work), self._stop)

    def _stop(self) -> None:
        self._should_stop = lambda: True

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._runner is None:
            with self.kept_open():
                return self._run(work)
        self._flights = Flights(self, self.journal, self.stage, lambda: self._should_stop())
        self._beat()
        try:
            return self._runner.run(self._flights.supervise(work, self._beat))
        except BackendError as error:
            kept = f". {self.journal.what_is_kept}" if self.usage.calls else ""
            raise BackendError(f"{error}{kept}") from error
        except (KeyboardInterrupt, SystemExit):
            # They leave the loop in the middle of a step; its tasks go on to their ends only.
            self._runner.run(_cancel_others())
            raise
        finally:
            self._backends |= {id(one): one for one in self._flights.backends}
            self._flights = None
            self._on_heartbeat()

    def _beat(self) -> None:
        self._beats.append((time.monotonic(), self.landed))
        self._on_heartbeat()

    @property
    def status(self) -> str:
        """Calls, their rate over the last seconds, and what all answers have cost."""
        began, landed = self._beats[0] if self._beats else (math.nan, 0)
        seconds = time.monotonic() - began
        rate = f", {(self.landed - landed) / seconds:,.1f}/s" if seconds > 1 else ""
        cost = f", cost {self.usage.cost:.4g}" if self.usage.cost else ""
        return f"{self.asked:,} calls{rate}{cost}"

    @property
    def counts(self) -> CallCounts:
        """All that has been counted, as another process adds it to its own."""
        return CallCounts(
            asked=self.asked,
            replayed=self.replayed,
            repeated=self.repeated,
            landed=self.landed,
            usage=self.usage,
            failures=dict(self.failures),
            failed_keys=tuple(self.failed_keys),
        )

    def show(self, counts: CallCounts) -> None:
        """Take over what other processes have counted, who do the work of this engine.

        Raises:
            LimitError: Too many calls have failed.
        """
        more = counts.landed - self.landed
        self.asked, self.replayed, self.repeated = counts.asked, counts.replayed, counts.repeated
        self.landed, self.usage = counts.landed, counts.usage
        self.failures = Counter(counts.failures)
        self.failed_keys = list(counts.failed_keys)
        if more > 0:
            self._on_answers(more)
        self._check_most_failures()

    def beat(self) -> None:
        """Note the rate and call `on_heartbeat`, as `run` does every second."""
        self._beat()

    def scope(self) -> "Scope":
        """An asker for one prompt or shard.

        It knows which answers it has counted, so that a second look at one costs nothing; with it,
        they are forgotten.
        """
        return Scope(self)

    async def ask(
        self,
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        *,
        backend: Backend,
    ) -> dict[str, A | Failure]:
        """Answers by key, from the journal where they are there; inside `run`.

        Args:
            calls: The calls; equal keys are asked once, also if another caller is asking for them.
            kind: The record type of an answer.
            batches: Given the calls that are not journaled, yields batches of them, each read when
                there is a slot for it; the answers of each are journaled in one transaction.
            backend: Who answers; its `concurrency` limits the batches in flight.

        Raises:
            LimitError: `max_calls` would be exceeded and nothing was asked; `max_cost` or
                `most_failures` is reached.
            BackendError: The model or server does not answer any more.
            DataError: A journaled answer is damaged.
            Interrupted: `should_stop` became true.
        """
        return await self.ask_counted(self._counted, calls, kind, batches, backend)

    async def ask_counted(
        self,
        counted: set[str],
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        backend: Backend,
    ) -> dict[str, A | Failure]:
        """As `ask`, for a scope; `counted` has the keys whose cost it has counted."""
        flights = self._flights
        assert flights is not None, "ask inside of CallEngine.run"
        flights.check()
        unique = {call.key: call for call in calls}
        results: dict[str, A | Failure] = {
            key: _record(kind, key, text) for key, text in self.journal.answers(unique).items()
        }
        self._count_earlier([key for key in unique if key not in counted], results)
        counted.update(unique)
        others = {key: flights.asking[key] for key in unique if key in flights.asking}
        open_calls = [
            call for key, call in unique.items() if key not in results and key not in others
        ]
        if open_calls:
            self._stay_within_limit(len(open_calls))
            results |= await flights.send(open_calls, batches, backend)
        for key, answer in others.items():
            results[key] = await flights.shared(answer)
        return results

    def _count_earlier(self, new: Sequence[str], stored: Mapping[str, A | Failure]) -> None:
        """Count the answers and the costs of earlier runs."""
        found = [stored[key] for key in new if key in stored]
        self.replayed += len(found)
        for answer in found:
            self.usage += _usage(answer)
        for text in self.journal.failed_usages(new):
            self.usage += Usage.model_validate_json(text)
        if found:
            self.landed += len(found)
            self._on_answers(len(found))

    def keep(self, answered: Mapping[str, A | Failure]) -> None:
        """Count the answers of a batch; they are journaled.

        Raises:
            LimitError: Too many calls have failed.
        """
        self.landed += len(answered)
        for value in answered.values():
            self.usage += _usage(value)
        bad = {key: value for key, value in answered.items() if isinstance(value, Failure)}
        self.failures.update(failure.reason for failure in bad.values())
        self.failed_keys += list(bad)[: _IDS_SHOWN - len(self.failed_keys)]
        self._on_answers(len(answered))
        if bad:
            self._check_most_failures()

    def _check_most_failures(self) -> None:
        if self.failures.total() > self.most_failures:
            raise LimitError(
                f"{self.failures.total()} calls failed ({top_reasons(self.failures)}), "
                "too many to go on: "
                f"mend the cause, or raise max_failed_fraction. {self.journal.what_is_kept}"
            )

    def affordable(self, batch: int, in_flight: int) -> bool:
        """True if `batch` more calls stay within `max_cost` when those in flight have landed.

        A last batch that may exceed it goes out alone.

        Raises:
            LimitError: `max_cost` is spent.
        """
        if self.max_cost is None:
            return True
        if self._shared is None:
            spent = self.usage.cost
            fits = fits_cost(spent, self.landed, batch, in_flight, limit=self.max_cost)
        else:
            spent, fits = self._shared.afford(self.counts, batch, in_flight)
        if spent >= self.max_cost:
            raise LimitError(
                f"max_cost: {spent:.4g} spent, limit {self.max_cost:g}; raise the limit. "
                f"{self.journal.what_is_kept}"
            )
        return fits

    def _stay_within_limit(self, more: int) -> None:
        if self.max_calls is None:
            return
        made = self._admitted if self._shared is None else self._shared.admit(more)
        if made + more > self.max_calls:
            raise LimitError(
                f"max_calls: {made} calls made, {more} more needed, limit "
                f"{self.max_calls}; raise the limit. {self.journal.what_is_kept}"
            )
        self._admitted += more

    def check_failures(self, total: int, allowed: float, *, where: str) -> None:
        """Stop when too large a share of `total` calls failed.

        Raises:
            LimitError: With the top reasons and three keys.
        """
        check_share(
            self.failures,
            self.failed_keys,
            total,
            allowed,
            where=where,
            what="calls",
            journal=self.journal,
        )


class Scope:
    """An `Asker` for one prompt or shard, made by `CallEngine.scope`."""

    def __init__(self, engine: CallEngine) -> None:
        self._engine = engine
        self._counted: set[str] = set()

    async def ask(
        self,
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        *,
        backend: Backend,
    ) -> dict[str, A | Failure]:
        """As `CallEngine.ask`."""
        return await self._engine.ask_counted(self._counted, calls, kind, batches, backend)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _beside_any_loop(work: Callable[[], T], on_interrupt: Callable[[], None] = lambda: None) -> T:
    """Return what `work`, which runs an event loop, returns.

    Where an event loop runs already, as in a notebook, it works in a thread of its own.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefine-loop")
    running = pool.submit(work)
    try:
        return running.result()
    except KeyboardInterrupt:
        on_interrupt()
        running.exception()
        raise
    finally:
        pool.shutdown(wait=False)


def check_share(
    failures: Counter[str],
    ids: Sequence[str],
    total: int,
    allowed: float,
    *,
    where: str,
    what: str,
    journal: AnswerLog,
) -> None:
    """Stop when too large a share of `total` failed.

    Raises:
        LimitError: With the top reasons and three ids.
    """
    failed = sum(failures.values())
    if total and failed / total > allowed:
        raise LimitError(
            f"{where}: {failed} of {total} {what} failed, more than max_failed_fraction "
            f"{allowed:g} allows "
            f"({top_reasons(failures)}); first ids: {', '.join(ids[:3])}; mend the cause or raise "
            "the limit. "
            f"{journal.what_is_kept}"
        )


def top_reasons(failures: Counter[str]) -> str:
    """The three most frequent reasons, for a message."""
    return "; ".join(f"{count} × {reason}" for reason, count in failures.most_common(3))


def _usage(answer: Record | Failure) -> Usage:
    """The usage of an answer; one that does not say it counts as one call."""
    return getattr(answer, "usage", None) or Usage(calls=1)


def _record(kind: type[A], key: str, text: str) -> A:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            f"journal, answer {key}: not a {kind.__name__} ({error}); restore the journal from a "
            "backup, or move it "
            "away to ask every call again"
        ) from error
