"""Calls on the event loop: nobody waits for another's answer, and what lands is journaled, whatever
ends the run.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from prefine.calls.engine import CallEngine
from prefine.calls.flights import GRACE_S
from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import Asker, Batch, Call, Failure, JournalGroup
from prefine.errors import BackendError, Interrupted, LimitError
from prefine.records import Record, Usage
from prefine.run.journal import Journal
from prefine.stages.shards import in_parts


class Answer(Record):
    text: str
    usage: Usage = Usage(calls=1)


Reply = Callable[[str], Awaitable[Answer | Failure]]


@dataclass(frozen=True)
class Backend:
    """Answers each call in a batch of its own, by a coroutine."""

    reply: Reply
    concurrency: int = 1

    def batches(self, calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in calls:
            yield Batch([call.key], partial(self._answer, call))

    async def _answer(self, call: Call[str]) -> Mapping[str, Answer | Failure]:
        return {call.key: await self.reply(call.payload)}

    async def ask(self, asker: Asker, *payloads: str) -> dict[str, Answer | Failure]:
        calls = [Call(payload, payload) for payload in payloads]
        return await asker.ask(calls, Answer, self.batches, backend=self)


async def at_once(payload: str) -> Answer:
    return Answer(text=payload)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite")


NAMES = [f"{n}" for n in range(64)]


def test_a_prompt_goes_on_while_another_waits() -> None:
    """The first prompt's first answer comes after the last one of the last prompt, two shards on;
    the shards are written in order all the same.
    """
    engine, written = CallEngine(MemoryLog()), []

    async def main() -> None:
        last_is_done = asyncio.Event()

        async def reply(payload: str) -> Answer:
            if payload == "a, round 0":
                await last_is_done.wait()
            if payload == "f, round 4":
                last_is_done.set()
            return Answer(text=payload)

        backend = Backend(reply, concurrency=2)

        async def rounds(prompts: list[str]) -> list[str]:
            (prompt,) = prompts
            for number in range(5):
                await backend.ask(engine, f"{prompt}, round {number}")
            return [prompt.upper()]

        shards = [["a", "b"], ["c", "d"], ["e", "f"]]
        await asyncio.wait_for(
            in_parts(shards, rounds, lambda *part: written.append(part), concurrency=2), timeout=20
        )

    engine.run(main())
    assert written == [(["a", "b"], ["A", "B"]), (["c", "d"], ["C", "D"]), (["e", "f"], ["E", "F"])]


def test_the_prompts_of_a_shard_ask_together_where_batches_matter() -> None:
    asked = []

    async def work(prompts: list[str]) -> list[str]:
        asked.append(prompts)
        return prompts

    asyncio.run(in_parts([["a", "b"], [], ["c"]], work, lambda *part: None, concurrency=1))
    assert asked == [["a", "b"], [], ["c"]]


def test_an_answer_is_journaled_while_another_is_late(journal: Journal) -> None:
    seen = []

    async def reply(payload: str) -> Answer:
        while payload == "0" and journal.count() < 63:
            await asyncio.sleep(0.01)
        if payload == "0":
            seen.append(journal.count())
        return Answer(text=payload)

    engine = CallEngine(journal)
    engine.run(Backend(reply, concurrency=64).ask(engine, *NAMES))
    assert seen == [63]


def test_what_landed_beside_too_many_failures_is_kept(journal: Journal) -> None:
    gate = asyncio.Event()
    under_way = 0

    async def reply(payload: str) -> Answer | Failure:
        nonlocal under_way
        under_way += 1
        if under_way == len(NAMES):
            gate.set()
        await gate.wait()
        return Failure("HTTP 429") if int(payload) % 2 else Answer(text=payload)

    engine = CallEngine(journal, most_failures=3)
    with pytest.raises(LimitError, match="calls failed"):
        engine.run(Backend(reply, concurrency=64).ask(engine, *NAMES))
    assert journal.count() == 32
    assert engine.usage.calls == 32


def test_what_is_in_flight_beside_an_error_lands(journal: Journal) -> None:
    async def reply(payload: str) -> Answer:
        if payload == "5":
            raise BackendError("the key is refused")
        await asyncio.sleep(0.1)
        return Answer(text=payload)

    engine = CallEngine(journal)
    with pytest.raises(BackendError, match=r"refused. What was answered is journaled"):
        engine.run(Backend(reply, concurrency=8).ask(engine, *NAMES))
    assert journal.count() == 7
    again = CallEngine(journal)
    again.run(Backend(at_once, concurrency=8).ask(again, *NAMES))
    assert (again.replayed, again.repeated) == (7, 1)


def test_a_stop_does_not_wait_for_what_hangs(journal: Journal) -> None:
    stop = threading.Event()

    async def reply(payload: str) -> Answer:
        if payload == "3":
            stop.set()
            await asyncio.sleep(60)
        await asyncio.sleep(0.3)
        return Answer(text=payload)

    engine = CallEngine(journal, should_stop=stop.is_set)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="same command"):
        engine.run(Backend(reply, concurrency=8).ask(engine, *NAMES))
    assert time.monotonic() - began < GRACE_S + 1
    assert journal.count() == 7, "what lands in time is kept"
    assert engine.usage.calls == 7
    again = CallEngine(journal)
    again.run(Backend(at_once, concurrency=8).ask(again, *NAMES))
    assert again.repeated == 1


def test_a_stop_does_not_wait_for_a_function_that_blocks(journal: Journal) -> None:
    stop, end = threading.Event(), threading.Event()

    def block(key: str) -> Mapping[str, Answer | Failure]:
        stop.set()
        end.wait(60)
        return {key: Answer(text=key)}

    def batches(calls: list[Call[str]]) -> Iterator[Batch[Answer]]:
        for call in calls:
            yield Batch([call.key], partial(block, call.key))

    engine = CallEngine(journal, should_stop=stop.is_set)
    backend = Backend(at_once)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        engine.run(engine.ask([Call("a", "a")], Answer, batches, backend=backend))
    assert time.monotonic() - began < GRACE_S + 1
    end.set()


def test_an_engine_runs_inside_a_running_loop(journal: Journal) -> None:
    async def notebook() -> dict[str, Answer | Failure]:
        engine = CallEngine(journal)
        return engine.run(Backend(at_once, concurrency=4).ask(engine, "a", "b"))

    assert asyncio.run(notebook()) == {"a": Answer(text="a"), "b": Answer(text="b")}
    assert journal.count() == 2


def test_the_cost_of_what_is_in_flight_is_reserved(journal: Journal) -> None:
    async def reply(payload: str) -> Answer:
        await asyncio.sleep(0.01 * (1 + int(payload) % 5))
        return Answer(text=payload, usage=Usage(calls=1, cost=1.0))

    for limit in (10, 20):
        engine = CallEngine(journal, max_cost=limit)
        with pytest.raises(LimitError, match=f"max_cost: {limit} spent, limit {limit}"):
            engine.run(Backend(reply, concurrency=8).ask(engine, *NAMES))
        assert journal.count() == limit, "journaled answers have cost as much as new ones"


def test_what_two_ask_for_is_asked_once() -> None:
    asked = []

    async def reply(payload: str) -> Answer:
        asked.append(payload)
        await asyncio.sleep(0.01)
        return Answer(text=payload)

    engine = CallEngine(MemoryLog())
    backend = Backend(reply, concurrency=4)

    async def both() -> list[dict[str, Answer | Failure]]:
        return await asyncio.gather(
            backend.ask(engine.scope(), "a", "b"), backend.ask(engine.scope(), "b", "c")
        )

    first, second = engine.run(both())
    assert sorted(asked) == ["a", "b", "c"]
    assert first["b"] == second["b"] == Answer(text="b")


def test_a_scope_counts_an_answer_once() -> None:
    engine = CallEngine(MemoryLog())
    backend = Backend(at_once, concurrency=2)

    async def twice() -> None:
        scope = engine.scope()
        await backend.ask(scope, "a")
        await backend.ask(scope, "a", "b")

    engine.run(twice())
    assert (engine.usage.calls, engine.landed, engine.replayed) == (2, 2, 0)


class SlowLog(MemoryLog):
    """A journal whose commits take ten milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0

    def write(self, group: JournalGroup) -> int:
        self.commits += 1
        time.sleep(0.01)
        return super().write(group)


def test_what_lands_during_a_commit_is_the_next_one() -> None:
    log = SlowLog()
    engine = CallEngine(log)
    names = [f"{n}" for n in range(500)]
    engine.run(Backend(at_once, concurrency=500).ask(engine, *names))
    assert len(log.answers(names)) == 500
    assert log.commits < 20, "two for each answer, one by one"


def test_a_journal_that_cannot_be_written_ends_the_run() -> None:
    class Full(MemoryLog):
        def write(self, group: JournalGroup) -> int:
            if group.answers:
                raise LimitError("no space to write the journal")
            return 0

    engine = CallEngine(Full())
    with pytest.raises(LimitError, match="no space"):
        engine.run(Backend(at_once, concurrency=8).ask(engine, *NAMES))
    assert engine.usage.calls == 0
