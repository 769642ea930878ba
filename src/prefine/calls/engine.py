"""The call engine: an answer that was journaled is never asked for again.

A call is a key and a payload for whoever answers it. The engine looks the keys up in the journal
and asks only for the rest, batch by batch: it notes a batch's keys, sends the batch, and journals
the answers before the caller sees them. So the keys that a kill leaves noted and unanswered are
those that were in flight. Failures are returned as failures and not journaled: the next run asks
again.

Up to `concurrency` batches are in flight at a time, each in its own thread; only the calling thread
writes the journal. Whenever asking ends early, the engine waits for the batches in flight and
journals their answers: they have been paid for.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pydantic import ValidationError

from prefine.calls.protocol import A, AnswerLog, Batch, Call, Failure, P
from prefine.errors import BackendError, DataError, Interrupted, LimitError
from prefine.records import Record, Usage

THREADS = "prefine-call"
"""The names of the threads that wait for answers begin with this."""


class CallEngine:
    """Asks, journals and counts.

    `asked` counts the calls that went out in this run. `usage` is the cost of all answers that were
    wanted, in whichever run they were asked for: journaled ones and failed attempts included, each
    once.

    Args:
        journal: Where answers are kept.
        max_calls: Stop with LimitError before more calls than this are made in this run.
        max_cost: Stop with LimitError once `usage` has cost this much [the unit of the user's
            prices].
        most_failures: Stop with LimitError once more calls than this have failed.
        should_stop: Checked before every batch; if true, no further one goes out.
        on_answers: Called with the number of new answers, from the journal or by asking.
    """

    def __init__(
        self,
        journal: AnswerLog,
        *,
        max_calls: int | None = None,
        max_cost: float | None = None,
        most_failures: float = math.inf,
        should_stop: Callable[[], bool] = lambda: False,
        on_answers: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.journal = journal
        self.max_calls = max_calls
        self.max_cost = max_cost
        self.most_failures = most_failures
        self._on_answers = on_answers
        self._should_stop = should_stop
        self.asked = 0
        self.replayed = 0
        self.repeated = 0
        self.failures: Counter[str] = Counter()
        self.failed_keys: list[str] = []
        self.usage = Usage()
        self._counted: set[str] = set()

    def ask(
        self,
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        *,
        concurrency: int = 1,
    ) -> dict[str, A | Failure]:
        """Answers by key, from the journal where they are there.

        Args:
            calls: The calls; equal keys are asked once.
            kind: The record type of an answer.
            batches: Given the calls that are not journaled, yields batches of them; the answers of
                each are journaled in one transaction.
            concurrency: How many batches may be in flight.

        Raises:
            LimitError: `max_calls` would be exceeded and nothing was asked; `max_cost` or
                `most_failures` is reached.
            BackendError: The model or server does not answer any more.
            DataError: A journaled answer is damaged.
            Interrupted: `should_stop` became true; what was in flight is journaled.
        """
        unique = {call.key: call for call in calls}
        stored = self.journal.answers(unique)
        results: dict[str, A | Failure] = {
            key: _record(kind, key, text) for key, text in stored.items()
        }
        open_calls = [call for key, call in unique.items() if key not in stored]
        self._count_earlier(unique, results)
        if not open_calls:
            return results
        self._stay_within_limit(len(open_calls))
        try:
            if concurrency == 1:
                for batch in batches(open_calls):
                    self._note(batch)
                    results |= self._keep(batch.answer())
            else:
                results |= self._side_by_side(batches(open_calls), concurrency)
        except BackendError as error:
            kept = f". {self.journal.what_is_kept}" if self.usage.calls else ""
            raise BackendError(f"{error}{kept}") from error
        return results

    def _side_by_side(
        self, batches: Iterable[Batch[A]], concurrency: int
    ) -> dict[str, A | Failure]:
        answers: dict[str, A | Failure] = {}
        flying: set[Future[Mapping[str, A | Failure]]] = set()
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix=THREADS)
        try:
            for batch in batches:
                self._note(batch)
                flying.add(pool.submit(batch.answer))
                if len(flying) >= concurrency:
                    answers |= self._land(flying, FIRST_COMPLETED)
            answers |= self._land(flying, ALL_COMPLETED)
        except KeyboardInterrupt:
            # A second Ctrl-C: do not wait for a server that hangs.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BaseException:
            self._land(flying, ALL_COMPLETED)
            raise
        pool.shutdown()
        return answers

    def _count_earlier(
        self, unique: Mapping[str, Call[P]], stored: Mapping[str, A | Failure]
    ) -> None:
        """Count the answers and the costs of earlier runs; each key once."""
        new = [key for key in unique if key not in self._counted]
        self._counted.update(new)
        found = [stored[key] for key in new if key in stored]
        self.replayed += len(found)
        for answer in found:
            self.usage += _usage(answer)
        for text in self.journal.failed_usages(new):
            self.usage += Usage.model_validate_json(text)
        if found:
            self._on_answers(len(found))

    def _note(self, batch: Batch[A]) -> None:
        """Check the limits and note the batch as in flight, just before it goes out."""
        if self._should_stop():
            raise Interrupted(f"stopped. {self.journal.what_is_kept}")
        if self.max_cost is not None and self.usage.cost >= self.max_cost:
            raise LimitError(
                f"max_cost: {self.usage.cost:.4g} spent, limit {self.max_cost:g}; raise the limit. "
                f"{self.journal.what_is_kept}"
            )
        self.repeated += self.journal.interrupted(batch.keys)
        self.journal.note_asked(batch.keys)
        self.asked += len(batch.keys)

    def _land(
        self, flying: set[Future[Mapping[str, A | Failure]]], when: str
    ) -> dict[str, A | Failure]:
        """Keep the batches that have come back; only then raise the first error."""
        landed, _ = wait(flying, return_when=when)
        flying -= landed
        errors = [error for future in landed if (error := future.exception()) is not None]
        answers: dict[str, A | Failure] = {}
        for future in landed:
            if future.exception() is None:
                answers |= self._keep(future.result())
        if errors:
            raise errors[0]
        return answers

    def _keep(self, answered: Mapping[str, A | Failure]) -> Mapping[str, A | Failure]:
        """Journal and count the answers of a batch."""
        good = {key: value for key, value in answered.items() if not isinstance(value, Failure)}
        bad = {key: value for key, value in answered.items() if isinstance(value, Failure)}
        self.journal.store({key: value.model_dump_json() for key, value in good.items()})
        for value in answered.values():
            self.usage += _usage(value)
        self._on_answers(len(answered))
        if bad:
            self.journal.note_failed(
                {key: value.usage.model_dump_json() for key, value in bad.items()}
            )
            self.failures.update(failure.reason for failure in bad.values())
            self.failed_keys += bad
            if sum(self.failures.values()) > self.most_failures:
                raise LimitError(
                    f"{sum(self.failures.values())} calls failed ({top_reasons(self.failures)}), "
                    "too many to go on: "
                    f"mend the cause, or raise max_failed_fraction. {self.journal.what_is_kept}"
                )
        return answered

    def _stay_within_limit(self, more: int) -> None:
        if self.max_calls is not None and self.asked + more > self.max_calls:
            raise LimitError(
                f"max_calls: {self.asked} calls made, {more} more needed, limit {self.max_calls}; "
                "raise the limit. "
                f"{self.journal.what_is_kept}"
            )

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
