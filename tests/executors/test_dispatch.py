"""Tasks go to workers, are done again where these are lost, and give one process's result.

The workers here are ours, in this process: what they do with a task is what they do under Ray.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from own_workers import Dies, OwnPool, OwnWorkers
from prefine.calls.counts import CallCounts, Ledger
from prefine.calls.engine import CallEngine
from prefine.calls.protocol import Asker, Batch, Call, Failure
from prefine.cli.ending import guarded
from prefine.config.sections import RunConfig
from prefine.errors import BackendError, ConfigError, DataError, Interrupted, LimitError
from prefine.executors import spreading
from prefine.executors.dispatch import Event, Lost, Ready
from prefine.executors.protocol import JobOrder, StageWork, Workplace
from prefine.executors.shared_limits import limits_of_one
from prefine.executors.worker import Orders, Worker, own_versions
from prefine.models.scripted import ScriptedModel
from prefine.records import Score, Usage
from prefine.run.journal import Journal
from prefine.stages.shards import ask_shards

CONFIG = {
    "run_dir": "unused",
    "policy": {"name": "scripted", "replies": ["x"]},
    "prompts": "p.jsonl",
    "sample": {},
    "rank": {"judge": {"name": "recorded"}},
}
ASKED: list[str] = []
"""All that the "server" was asked, whichever worker did it."""


class Doubling:
    """Asks for twice each number of a shard, and "writes" the sums."""

    concurrency = 4
    notes = ("doubling",)
    dies_at: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.folder = folder

    def run(self, shards: Any, take: Callable[[Any], None], place: Workplace) -> None:
        ask_shards(self, shards, take, place)

    def items(self, shard: list[int]) -> list[int]:
        return shard

    async def work(self, asker: Asker, items: list[int]) -> list[float | None]:
        calls = [Call(f"key {number}", number) for number in items]

        def answer(call: Call[int]) -> dict[str, Score | Failure]:
            if self.dies_at():
                raise Dies
            ASKED.append(call.key)
            if call.payload == 13:
                return {call.key: Failure("unlucky", Usage(calls=1, cost=0.5))}
            score = Score(
                completion_id=call.key,
                judge="doubling",
                value=2.0 * call.payload,
                usage=Usage(calls=1, cost=0.5),
            )
            return {call.key: score}

        def batches(wanted: list[Call[int]]) -> Iterator[Batch[Score]]:
            for call in wanted:
                yield Batch([call.key], lambda call=call: answer(call))  # type: ignore[misc]

        found = await asker.ask(calls, Score, batches, backend=BACKEND)
        values = [found[call.key] for call in calls]
        return [None if isinstance(one, Failure) else one.value for one in values]

    def write(self, number: int, items: list[int], results: list[float | None]) -> Any:
        return number, list(zip(items, results, strict=True))


BACKEND = ScriptedModel(replies=["unused"])


class Place:
    """A run folder with its journal, and what a stage counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal" / "part-00000.sqlite")
        self.config = RunConfig.model_validate(CONFIG | {"run_dir": str(folder)})
        self.results: list[Any] = []
        self.advanced = 0
        self.stop_after = 10**9

    def take(self, result: Any) -> None:
        self.results.append(result)

    def work(self, engine: CallEngine) -> StageWork:
        def advance(count: int) -> None:
            self.advanced += count

        return StageWork(
            stage="rank",
            config=self.config,
            folder=self.folder,
            job=Doubling(self.config, self.folder),
            order=JobOrder(Doubling),
            engine=engine,
            advance=advance,
            stopping=lambda: len(self.results) >= self.stop_after,
        )

    def locally(self, shards: list[list[int]], **limits: Any) -> CallEngine:
        engine = CallEngine(self.journal, stage="rank", **limits)
        work = self.work(engine)
        work.job.run(enumerate(shards), self.take, Workplace(engine, work.advance, work.stopping))
        return engine

    def spread(
        self, shards: list[list[int]], *, seed: int = 0, per_task: int = 1, **limits: Any
    ) -> tuple[CallEngine, list[str]]:
        engine = CallEngine(self.journal, stage="rank", **limits)
        executor = OwnWorkers(seed=seed, shards_per_task=per_task)
        return engine, list(executor.run(self.work(engine), shards, self.take))


SHARDS = [list(range(start, start + 5)) for start in range(0, 60, 5)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    ASKED.clear()
    found = Place(tmp_path)
    yield found
    found.journal.close()


@contextmanager
def dying(moments: set[int]) -> Iterator[None]:
    """Kill the worker that makes these calls, by their numbers."""
    count = iter(range(10**6))
    Doubling.dies_at = staticmethod(lambda: next(count) in moments)
    try:
        yield
    finally:
        Doubling.dies_at = staticmethod(lambda: False)


@pytest.mark.parametrize("per_task", [1, 5])
def test_workers_give_what_one_process_gives(place: Place, tmp_path: Path, per_task: int) -> None:
    engine, notes = place.spread(SHARDS, seed=1, per_task=per_task)
    alone = Place(tmp_path / "alone")
    expected = alone.locally(SHARDS)
    assert place.results == alone.results
    assert [number for number, _ in place.results] == list(range(12))
    assert place.advanced == alone.advanced == 60
    assert engine.counts == expected.counts
    assert engine.counts.usage == Usage(calls=60, cost=30.0)
    assert engine.failures == {"unlucky": 1}
    assert notes == ["doubling"]
    assert place.journal.count() == 59
    alone.journal.close()


@pytest.mark.parametrize("seed", range(5))
def test_lost_workers_cost_what_was_in_flight(place: Place, seed: int) -> None:
    moments = set(random.Random(seed).sample(range(60), 2))
    with dying(moments):
        engine, notes = place.spread(SHARDS, seed=seed)
    assert [number for number, _ in place.results] == list(range(12))
    # Of answers none is asked for again; a failure is, by whoever does its shard again.
    twice = Counter(ASKED)
    assert twice.keys() == {f"key {number}" for number in range(60)}
    assert {key for key, count in twice.items() if count > 1} <= {"key 13"}
    # What was noted as asked when its worker died was asked again, and is counted.
    assert 2 <= place.journal.repeats("rank") <= 2 * Doubling.concurrency
    assert engine.usage == Usage(calls=len(ASKED), cost=len(ASKED) / 2)
    assert notes[-1].startswith("2 workers were lost")


def test_calls_that_a_lost_worker_never_sent_are_not_counted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, granted = Ledger.admit, [0]

    def admit(ledger: Ledger, task: int, more: int) -> int:
        before = usual(ledger, task, more)
        granted.append(before + more)
        return before

    monkeypatch.setattr(Ledger, "admit", admit)
    with dying({7, 31}):
        place.spread([list(range(20, 60)), list(range(60, 100))], max_calls=1000)
    # Those in flight were sent, and are counted twice.
    assert granted[-1] == place.journal.sent() == 80 + place.journal.repeats("rank")


def test_unsent_calls_of_a_lost_task_are_taken_back() -> None:
    ledger = Ledger(10, None)
    assert [ledger.admit(1, 5), ledger.admit(2, 5)] == [0, 5]
    ledger.end(1, None)
    ledger.resume(1, 3)
    assert [ledger.admit(1, 2), ledger.admit(2, 1)] == [8, 10]
    ledger.resume(1, 5)
    assert ledger.admit(2, 1) == 10


def test_a_run_goes_on_under_the_other_executor(place: Place) -> None:
    place.locally(SHARDS[:5])
    place.results.clear()
    engine, _ = place.spread(SHARDS[:9])
    assert (engine.replayed, engine.asked) == (24, 21)
    place.results.clear()
    engine = place.locally(SHARDS)
    assert (engine.replayed, engine.asked) == (44, 16)
    assert ASKED.count("key 13") == 3  # a failure is asked again by each run
    assert len(ASKED) == 62


def test_a_worker_that_dies_again_and_again_ends_the_stage(place: Place) -> None:
    with dying(set(range(10**3))), pytest.raises(BackendError, match="has ended 3 workers"):
        place.spread(SHARDS)


@pytest.mark.parametrize(
    ("limits", "message", "asked"),
    [
        ({"max_calls": 22}, "max_calls: 22 calls made, 1 more needed, limit 22", range(20, 23)),
        ({"max_cost": 11.0}, "max_cost: 11 spent, limit 11", range(22, 23)),
        ({"most_failures": 0}, "1 calls failed (1 × unlucky)", range(1, 61)),
    ],
)
def test_limits_hold_for_all_workers_together(
    place: Place, limits: dict[str, Any], message: str, asked: range
) -> None:
    with pytest.raises(LimitError, match=re.escape(message)):
        place.spread(SHARDS, **limits)
    assert len(ASKED) in asked


def test_an_interruption_stops_and_the_rest_is_done_later(place: Place) -> None:
    place.stop_after = 4
    with pytest.raises(Interrupted):
        place.spread(SHARDS)
    done = len(ASKED)
    assert 20 <= done < 60
    place.stop_after = 10**9
    place.results.clear()
    place.spread(SHARDS)
    assert len(place.results) == 12
    assert len(ASKED) == 60 + ASKED.count("key 13") - 1


def test_a_node_without_the_run_folder_is_told_apart(place: Place) -> None:
    token = place.folder / ".token"
    orders = Orders(
        stage="rank",
        config=place.config.resolved(),
        folder=place.folder,
        directory=Path.cwd(),
        paths=(),
        token_file=token,
        token="mine",
        versions=own_versions(),
        job=JobOrder(Doubling),
        journal=None,
        max_calls=None,
        max_cost=None,
        most_failures=1,
    )
    ledger = Ledger(None, None)
    for content in (None, "another folder's"):
        if content is not None:
            token.write_text(content)
        name, message = Worker(orders, ledger).prepare() or ("", "")
        assert name == ConfigError.__name__
        assert f"does not see the run folder {place.folder}" in message
    token.write_text("mine")
    assert Worker(orders, ledger).prepare() is None
    _, message = Worker(orders._replace(versions=("0.0", "3.0")), ledger).prepare() or ("", "")
    assert "the command runs 0.0 under 3.0" in message


def test_what_a_host_may_be_asked_is_divided_among_workers() -> None:
    server = {"name": "openai", "model": "m", "base_url": "http://here/v1"}
    judge = {"name": "pairwise", "model": {**server, "requests_per_minute": 60, "concurrency": 6}}
    config = RunConfig.model_validate(
        CONFIG | {"sample": {"model": server}, "rank": {"judge": judge}}
    )
    values = limits_of_one(config, 4)
    assert values["rank"]["judge"]["model"]["requests_per_minute"] == 15
    assert values["rank"]["judge"]["model"]["concurrency"] == 1
    assert values["sample"]["model"]["concurrency"] == 4  # of 16, the default
    assert "concurrency" not in values["policy"]
    assert RunConfig.model_validate(values | {"run_dir": "x"}).rank is not None


def test_the_counts_of_a_lost_task_are_forgotten() -> None:
    ledger = Ledger(5, 10.0, CallCounts(asked=1, landed=1, usage=Usage(calls=1, cost=1)))
    assert [ledger.admit(7, 2), ledger.admit(8, 2), ledger.admit(7, 1)] == [1, 3, 5]
    some = CallCounts(asked=2, landed=2, usage=Usage(calls=2, cost=3))
    assert ledger.beat(7, some) is False
    assert ledger.total().usage.cost == 4
    # Calls cost 4/3 each so far: beside 3 in flight, one more stays within 10, and two would not.
    assert ledger.afford(7, some, 1, 3) == (4, True)
    assert ledger.afford(7, some, 2, 4) == (4, False)
    ledger.end(7, None)
    assert ledger.total().usage.cost == 1
    ledger.end(7, some)
    ledger.stop()
    assert ledger.beat(8, CallCounts()) is True
    assert ledger.total().usage.cost == 4


def test_a_beat_that_comes_after_the_end_counts_nothing() -> None:
    ledger = Ledger(None, None)
    some = CallCounts(asked=2, landed=2, usage=Usage(calls=2, cost=3), failures={"unlucky": 1})
    ledger.beat(7, some)
    ledger.end(7, None)  # lost; another worker does it again
    ledger.beat(7, some)
    ledger.end(7, some)
    ledger.beat(7, some)
    assert ledger.total() == some


def test_an_end_under_way_is_not_hidden_by_what_follows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(result: Any) -> None:
        monkeypatch.setattr(OwnPool, "wait", broken)
        raise LimitError("too many failed")

    def broken(self: OwnPool, timeout_s: float) -> None:
        raise FileNotFoundError("removed under a worker")

    work = place.work(CallEngine(place.journal, stage="rank"))
    with pytest.raises(LimitError, match="too many failed") as found:
        OwnWorkers().run(work, SHARDS, take)
    assert isinstance(found.value.__cause__, FileNotFoundError)


def test_parts_that_cannot_be_absorbed_do_not_hide_why_the_stage_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(journal: Journal) -> None:
        raise LimitError("the disk is full")

    def take(result: Any) -> None:
        raise DataError("bad rows")

    monkeypatch.setattr(spreading, "absorb_parts", full)
    work = place.work(CallEngine(place.journal, stage="rank"))
    assert guarded(lambda: OwnWorkers().run(work, SHARDS, take)) == DataError.exit_code
    assert capsys.readouterr().err == "prefine: bad rows; then the disk is full\n"
    with pytest.raises(LimitError, match="the disk is full"):
        place.spread(SHARDS)


@pytest.mark.parametrize("ready", [True, False])
def test_idle_workers_may_go_and_ones_that_never_start_may_not(
    place: Place, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    usual, gone = OwnPool.wait, iter(range(12))

    def wait(pool: OwnPool, timeout_s: float) -> list[Event]:
        """Lose the first 12 workers: as soon as they are ready, or before."""
        found: list[Event] = []
        for event in usual(pool, timeout_s):
            if isinstance(event, Ready) and next(gone, None) is not None:
                found += [event] * ready + [Lost(event.worker, "preempted")]
            else:
                found.append(event)
        return found

    monkeypatch.setattr(OwnPool, "wait", wait)
    if ready:
        place.spread(SHARDS)
        assert len(place.results) == 12 and next(gone, None) is None
    else:
        with pytest.raises(BackendError, match=r"no worker can be started \(preempted\)"):
            place.spread(SHARDS)
