"""The call engine: what is journaled is not asked, what fails is counted, limits hold before a
call.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Batch, Call, Failure, JournalGroup
from prefine.errors import BackendError, DataError, LimitError
from prefine.records import Record, Usage
from prefine.run.journal import Journal


class Answer(Record):
    text: str
    usage: Usage = Usage(calls=1, completion_tokens=2)


class Model:
    """Answers in batches of two; payloads that begin with "bad" fail; "stop" ends the process."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for start in range(0, len(calls), 2):
            batch = calls[start : start + 2]
            yield Batch([call.key for call in batch], partial(self._answer, batch))

    def _answer(self, batch: list[Call[str]]) -> Mapping[str, Answer | Failure]:
        self.asked += [call.payload for call in batch]
        if any(call.payload == "stop" for call in batch):
            raise KeyboardInterrupt
        return {
            c.key: Failure(c.payload) if c.payload.startswith("bad") else Answer(text=c.payload)
            for c in batch
        }


@dataclass(frozen=True)
class Backend:
    concurrency: int = 1


def ask(
    engine: CallEngine,
    wanted: list[Call[str]],
    batches: Callable[[list[Call[str]]], Iterable[Batch[Answer]]],
    *,
    concurrency: int = 1,
) -> dict[str, Answer | Failure]:
    """The answers of one run of the engine."""
    return engine.run(engine.ask(wanted, Answer, batches, backend=Backend(concurrency)))


def calls(*payloads: str) -> list[Call[str]]:
    return [Call(f"key {payload}", payload) for payload in payloads]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite")


def test_an_answer_is_asked_for_once(journal: Journal) -> None:
    model, engine = Model(), CallEngine(journal)
    first = ask(engine, calls("a", "b", "a"), model)
    assert first == {"key a": Answer(text="a"), "key b": Answer(text="b")}
    second = CallEngine(journal)
    assert ask(second, calls("b", "a", "c"), model) == first | {"key c": Answer(text="c")}
    assert model.asked == ["a", "b", "c"]
    assert (engine.asked, second.asked, second.replayed) == (2, 1, 2)
    assert engine.usage == Usage(calls=2, completion_tokens=4)
    assert second.usage.calls == 3, "what the answers cost, whenever they were asked for, each once"


def test_a_failure_is_data_and_is_asked_again(journal: Journal) -> None:
    model, engine = Model(), CallEngine(journal)
    answers = ask(engine, calls("a", "bad luck", "bad luck 2"), model)
    assert answers["key bad luck"] == Failure("bad luck")
    assert engine.failures == {"bad luck": 1, "bad luck 2": 1}
    assert journal.count() == 1
    again = CallEngine(journal)
    ask(again, calls("a", "bad luck"), model)
    assert model.asked == ["a", "bad luck", "bad luck 2", "bad luck"]
    assert again.repeated == 0, "a failed call was not interrupted"


def test_what_was_answered_before_an_end_is_kept(journal: Journal) -> None:
    engine = CallEngine(journal)
    with pytest.raises(KeyboardInterrupt):
        ask(engine, calls("a", "b", "stop", "c"), Model())
    model, again = Model(), CallEngine(journal)
    ask(again, calls("a", "b", "c"), model)
    assert model.asked == ["c"]
    assert again.repeated == 1


def test_only_calls_in_flight_count_as_repeated(journal: Journal) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(CallEngine(journal), calls("stop", "a", "b", "c", "d", "e"), Model())
    again = CallEngine(journal)
    ask(again, calls("x", "a", "b", "c", "d", "e"), Model())
    assert again.repeated == 1, "only a was in the batch that went out with stop"


def test_an_answer_is_on_disk_before_it_is_seen(journal: Journal) -> None:
    seen: list[int] = []

    def answer(open_calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in open_calls:
            yield Batch([call.key], lambda call=call: {call.key: Answer(text=call.payload)})  # type: ignore[misc]
            seen.append(journal.count())

    ask(CallEngine(journal), calls("a", "b", "c"), answer)
    assert seen == [1, 2, 3]


def test_the_call_limit_holds_before_a_call(journal: Journal) -> None:
    model, engine = Model(), CallEngine(journal, max_calls=3)
    ask(engine, calls("a", "b"), model)
    with pytest.raises(LimitError, match="max_calls: 2 calls made, 2 more needed, limit 3"):
        ask(engine, calls("c", "d"), model)
    assert model.asked == ["a", "b"]
    ask(engine, calls("a", "b", "c"), model)
    assert model.asked == ["a", "b", "c"], "what is journaled does not count"


def test_failures_past_the_share_stop(journal: Journal) -> None:
    engine = CallEngine(journal)
    ask(engine, calls("a", "b", "c", "bad 1", "bad 1"), Model())
    engine.check_failures(4, 0.25, where="rank")
    engine.check_failures(0, 0.0, where="rank")
    with pytest.raises(LimitError) as caught:
        engine.check_failures(4, 0.2, where="rank")
    for part in (
        "rank: 1 of 4 calls failed",
        "max_failed_fraction 0.2",
        "1 × bad 1",
        "key bad 1",
        "same command again",
    ):
        assert part in str(caught.value)


def test_cost_is_that_of_all_runs_failed_attempts_included(journal: Journal) -> None:
    def paid(call: Call[str]) -> Answer | Failure:
        bad = call.payload.startswith("bad")
        usage = Usage(calls=1, cost=0.5)
        return Failure("bad", usage) if bad else Answer(text=call.payload, usage=usage)

    def batches(open_calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in open_calls:
            yield Batch([call.key], lambda call=call: {call.key: paid(call)})  # type: ignore[misc]

    wanted = calls("a", "bad", "b")
    for run in range(1, 4):
        engine = CallEngine(journal)
        ask(engine, wanted, batches)
        ask(engine, wanted[:1], batches)
        assert engine.usage == Usage(calls=2 + run, cost=0.5 * (2 + run)), (
            "each run pays for the failure again"
        )
    limited = CallEngine(journal, max_cost=2.5)
    with pytest.raises(LimitError, match=r"max_cost: 2\.5 spent, limit 2\.5"):
        ask(limited, wanted, batches)


def test_too_many_failures_end_the_asking_at_once(journal: Journal) -> None:
    model, engine = Model(), CallEngine(journal, most_failures=3)
    with pytest.raises(LimitError, match="4 calls failed"):
        ask(engine, calls(*(f"bad {n}" for n in range(100))), model)
    assert len(model.asked) == 4


def test_a_damaged_answer_is_named(journal: Journal) -> None:
    journal.write(JournalGroup(answers={"key a": '{"txt": 1}'}))
    with pytest.raises(DataError, match="journal, answer key a: not a Answer"):
        ask(CallEngine(journal), calls("a"), Model())


class Together:
    """Answers each call in a batch of its own and knows how many were under way at once."""

    def __init__(self, *, fails: str = "") -> None:
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        self.fails = fails

    def __call__(self, calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in calls:
            yield Batch([call.key], partial(self._answer, call))

    def _answer(self, call: Call[str]) -> Mapping[str, Answer | Failure]:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(0.01)
        with self.lock:
            self.under_way -= 1
        if call.payload == self.fails:
            raise BackendError("the server is gone")
        return {call.key: Answer(text=call.payload)}


def test_batches_in_flight_are_bounded_and_answers_are_the_same(journal: Journal) -> None:
    model = Together()
    names = [f"{n}" for n in range(20)]
    answers = ask(CallEngine(journal), calls(*names), model, concurrency=5)
    assert answers == {f"key {name}": Answer(text=name) for name in names}
    assert 2 <= model.most <= 5
    assert journal.count() == 20


def test_when_one_batch_ends_the_run_the_others_in_flight_are_kept(journal: Journal) -> None:
    names = [f"{n}" for n in range(20)]
    with pytest.raises(BackendError):
        ask(CallEngine(journal), calls(*names), Together(fails="7"), concurrency=4)
    kept = journal.count()
    assert 7 <= kept <= 11, "what was asked beside it has been paid for"
    again = CallEngine(journal)
    ask(again, calls(*names), Together(), concurrency=4)
    assert (again.replayed, again.repeated) == (kept, 1), (
        "only the one that ended the run was in flight unanswered"
    )


def test_usage_of_failures_counts(journal: Journal) -> None:
    def batches(open_calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in open_calls:
            yield Batch(
                [call.key], lambda call=call: {call.key: Failure("cut", Usage(calls=1, cost=0.5))}
            )  # type: ignore[misc]

    engine = CallEngine(journal)
    ask(engine, calls("a", "b"), batches)
    assert engine.usage == Usage(calls=2, cost=1.0)


class ClosingBackend:
    """Notes when it is closed, and on which event loop it is; one of them cannot be closed."""

    concurrency = 1

    def __init__(self, events: list[str], name: str) -> None:
        self._events, self._name = events, name

    async def aclose(self) -> None:
        self._events.append(f"{self._name} closed")
        if self._name == "broken":
            raise OSError("cannot be closed")


def test_runs_that_are_kept_open_share_what_their_backends_hold(journal: Journal) -> None:
    events: list[str] = []
    engine, backend = CallEngine(journal), ClosingBackend(events, "one")
    with engine.kept_open():
        for payload in ("a", "b"):
            engine.run(engine.ask(calls(payload), Answer, Model(), backend=backend))
            events.append(payload)
    assert events == ["a", "b", "one closed"]
    engine.run(engine.ask(calls("c"), Answer, Model(), backend=backend))
    assert events == ["a", "b", "one closed", "one closed"]


def test_runs_are_kept_open_where_an_event_loop_runs_already(journal: Journal) -> None:
    events: list[str] = []
    engine, backend = CallEngine(journal), ClosingBackend(events, "one")

    async def notebook() -> None:
        with engine.kept_open():
            for payload in ("a", "b"):
                engine.run(engine.ask(calls(payload), Answer, Model(), backend=backend))
                events.append(payload)

    asyncio.run(notebook())
    assert events == ["a", "b", "one closed"]


def test_a_backend_that_cannot_be_closed_leaves_no_other_one_open(journal: Journal) -> None:
    events: list[str] = []
    engine = CallEngine(journal)

    async def both() -> None:
        for name in ("broken", "one", "broken"):
            backend = ClosingBackend(events, name)
            await engine.ask(calls(name + str(len(events))), Answer, Model(), backend=backend)

    with pytest.raises(OSError, match="cannot be closed"):
        engine.run(both())
    assert sorted(events)[-1] == "one closed"
    assert "broken closed" in events
