"""The call engine: an answer that was journaled is never asked for again.

A call is a key and whatever its answerer needs. The engine looks the keys up and asks only for the rest, batch by
batch: it notes a batch's keys, lets it go out, and journals what comes back before anybody sees it. So what a kill
leaves noted and unanswered is what was in flight. Failures come back as failures and are not journaled.

Up to `concurrency` batches are in flight at a time, each in its own thread; the journal is written by this thread only.
Whatever ends the asking early, what is in flight is waited for and journaled: it has been paid for.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from pydantic import ValidationError

from prefine.calls.base import A, AnswerLog, Batch, Call, Failure, P
from prefine.errors import DataError, Interrupted, LimitError
from prefine.records import Record, Usage


class CallEngine:
    """Asks, journals and counts.

    Args:
        journal: Where answers are kept.
        max_calls: Stop with LimitError before more calls than this are made in this run.
        max_cost: Stop with LimitError once what was asked for has cost this much, journaled answers included
            [the unit of the user's prices].
        should_stop: Asked before every batch; if true, no further one goes out.
        on_answers: Told how many calls have been answered whenever some are, from the journal or by asking.
    """

    def __init__(
        self,
        journal: AnswerLog,
        *,
        max_calls: int | None = None,
        max_cost: float | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_answers: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.journal = journal
        self.max_calls = max_calls
        self.max_cost = max_cost
        self._on_answers = on_answers
        self._should_stop = should_stop
        self.asked = 0
        self.replayed = 0
        self.repeated = 0
        self.failures: Counter[str] = Counter()
        self.failed_keys: list[str] = []
        self.usage = Usage()
        self._cost_before = 0.0

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
            calls: What to ask; equal keys are asked once.
            kind: The record that an answer is.
            batches: Given the calls that are not journaled, yields batches of them; the answers of each are journaled
                in one transaction.
            concurrency: How many batches may be in flight.

        Raises:
            LimitError: `max_calls` would be exceeded and nothing was asked; or `max_cost` is reached.
            DataError: A journaled answer is damaged.
            Interrupted: `should_stop` became true; what was in flight is journaled.
        """
        unique = {call.key: call for call in calls}
        stored = self.journal.answers(unique)
        results: dict[str, A | Failure] = {key: _record(kind, key, text) for key, text in stored.items()}
        open_calls = [call for key, call in unique.items() if key not in stored]
        self.replayed += len(stored)
        self._cost_before += sum(_usage(answer).cost for answer in results.values())
        if stored:
            self._on_answers(len(stored))
        if not open_calls:
            return results
        self._stay_within_limit(len(open_calls))
        if concurrency == 1:
            for batch in batches(open_calls):
                self._note(batch)
                results |= self._keep(batch.answer())
            return results
        flying: set[Future[Mapping[str, A | Failure]]] = set()
        with ThreadPoolExecutor(concurrency, thread_name_prefix="call") as pool:
            try:
                for batch in batches(open_calls):
                    self._note(batch)
                    flying.add(pool.submit(batch.answer))
                    if len(flying) >= concurrency:
                        results |= self._land(flying, FIRST_COMPLETED)
            finally:
                results |= self._land(flying, ALL_COMPLETED)
        return results

    def _note(self, batch: Batch[A]) -> None:
        """The last moment before a batch goes out."""
        if self._should_stop():
            raise Interrupted("stopped; what was answered is journaled, the same command goes on from here")
        if self.max_cost is not None and self._cost_before + self.usage.cost >= self.max_cost:
            raise LimitError(
                f"max_cost: {self._cost_before + self.usage.cost:.4g} spent, limit {self.max_cost:g}. "
                "Everything answered so far is journaled; raise the limit and run the same command again"
            )
        self.repeated += self.journal.interrupted(batch.keys)
        self.journal.note_asked(batch.keys)
        self.asked += len(batch.keys)

    def _land(self, flying: set[Future[Mapping[str, A | Failure]]], when: str) -> dict[str, A | Failure]:
        """Keep what has come back; the first error is raised only after that."""
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
        """Journal and count what a batch gave."""
        good = {key: value for key, value in answered.items() if not isinstance(value, Failure)}
        bad = {key: value for key, value in answered.items() if isinstance(value, Failure)}
        self.journal.store({key: value.model_dump_json() for key, value in good.items()})
        if bad:
            self.journal.forget_asked(bad)
            self.failures.update(failure.reason for failure in bad.values())
            self.failed_keys += bad
        for value in answered.values():
            self.usage += _usage(value)
        self._on_answers(len(answered))
        return answered

    def _stay_within_limit(self, more: int) -> None:
        if self.max_calls is not None and self.asked + more > self.max_calls:
            raise LimitError(
                f"max_calls: {self.asked} calls made, {more} more needed, limit {self.max_calls}. "
                "Everything answered so far is journaled; raise the limit and run the same command again"
            )

    def check_failures(self, total: int, allowed: float, *, where: str) -> None:
        """Stop when too large a share of `total` calls failed.

        Raises:
            LimitError: With the top reasons and three keys.
        """
        failed = sum(self.failures.values())
        if total and failed / total > allowed:
            reasons = "; ".join(f"{count} × {reason}" for reason, count in self.failures.most_common(3))
            raise LimitError(
                f"{where}: {failed} of {total} calls failed, more than max_failed_fraction {allowed:g} allows "
                f"({reasons}); first ids: {', '.join(self.failed_keys[:3])}. "
                "What was answered is journaled; mend the cause or raise the limit, and run the same command again"
            )


def _usage(answer: Record | Failure) -> Usage:
    """What an answer cost; one that does not say is a call."""
    return getattr(answer, "usage", None) or Usage(calls=1)


def _record(kind: type[A], key: str, text: str) -> A:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            f"journal, answer {key}: not a {kind.__name__} ({error}); restore the journal from a backup, or move it "
            "away to ask every call again"
        ) from error
