"""Full disks, kills, locks and torn files: what was paid for stays, and the same command goes
on.
"""

import json
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from command import prefine, prefine_process, start
from prefine.calls.protocol import JournalGroup
from prefine.run.journal import Journal
from run_place import DATA, LIMIT, OK, SAMPLED, Place, jsonl

JOURNAL = Path("run/journal/part-00000.sqlite")
INTERRUPTED = 6


def answers() -> int:
    """How many answers are journaled."""
    if not JOURNAL.exists():
        return 0
    with closing(sqlite3.connect(JOURNAL)) as connection:
        try:
            (count,) = connection.execute("SELECT COUNT(*) FROM answers").fetchone()
        except sqlite3.OperationalError:
            return 0  # another process is just making it
    return int(count)


def tables() -> dict[str, bytes]:
    """All finished parts."""
    return {str(path): path.read_bytes() for path in sorted(Path("run").rglob("part-*.parquet"))}


def manifest(stage: str) -> dict[str, object]:
    stages: dict[str, dict[str, object]] = json.loads(Path("run/manifest.json").read_text())[
        "stages"
    ]
    return stages[stage]


def at_most(size: int) -> Callable[[], None]:
    """No file may grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def slow_sampling(place: Place, *, prompts: int = 12, delay_s: float = 0.03) -> None:
    """Prompts in shards of one, each call on its own and slow."""
    place.change(
        SAMPLED | {"policy.delay_s": delay_s, "policy.batch": 1, "sample.shard_prompts": 1}
    )
    place.put("prompts.jsonl", jsonl([{"prompt": f"question {n}"} for n in range(prompts)]))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.01)


def fresh_run(place: Place, *stages: str) -> dict[str, bytes]:
    """The parts that an undisturbed run makes, by their path; in another folder."""
    for stage in stages:
        assert prefine(stage, "run.yaml", "--run-dir", "fresh").code == OK
    parts = sorted(Path("fresh").rglob("part-*.parquet"))
    return {str(path).replace("fresh", "run", 1): path.read_bytes() for path in parts}


def test_full_disk_under_the_journal(place: Place) -> None:
    place.change(
        SAMPLED | {"policy.replies": ["tea " * 4000, "no " * 5000], "sample.shard_prompts": 1}
    )
    result = prefine_process("sample", "run.yaml", limits=at_most(128 * 1024))
    assert result.code == LIMIT, result.err
    for fragment in ("journal", "no space", "free some space", "same command"):
        assert fragment in result.err
    kept, parts = answers(), tables()
    assert 0 < kept < 12
    assert prefine("sample", "run.yaml").code == OK
    assert answers() == 12
    assert manifest("sample")["replayed"] == kept
    assert manifest("sample")["usage"]["calls"] == 12  # type: ignore[index]
    assert parts.items() <= tables().items()
    assert tables() == fresh_run(place, "sample")


def test_full_disk_under_a_part(place: Place) -> None:
    long = [
        {"prompt": f"q {n}", "completions": [os.urandom(20_000).hex() for _ in range(2)]}
        for n in range(2)
    ]
    place.put("answers.jsonl", jsonl(long))
    result = prefine_process("sample", "run.yaml", limits=at_most(32 * 1024))
    assert result.code == LIMIT, result.err
    assert "part-00000.parquet" in result.err
    assert "no space" in result.err
    assert not list(Path("run/completions").iterdir()), "a half-written part"
    assert prefine("sample", "run.yaml").code == OK
    assert tables() == fresh_run(place, "sample")


def test_full_disk_under_a_checkpoint(place: Place) -> None:
    for stage in ("sample", "rank", "pair"):
        assert prefine(stage, "run.yaml").code == OK
    before = tables()
    result = prefine_process("train", "run.yaml", limits=at_most(24 * 1024))
    assert result.code == LIMIT, result.err
    assert "no space" in result.err
    assert not Path("run/model").exists()
    assert not list(Path("run/checkpoints").glob("step-*"))
    assert tables() == before
    result = prefine("train", "run.yaml")
    assert result.code == OK, result.err
    assert Path("run/model/model.safetensors").exists()


def test_kill_while_sampling(place: Place) -> None:
    slow_sampling(place, delay_s=0.15)
    process = start("sample", "run.yaml")
    wait_for(lambda: answers() >= 12)
    process.kill()
    process.communicate()
    kept = answers()
    assert kept < 36
    # The manifest is written every second.
    assert 0 < manifest("sample")["usage"]["calls"] <= kept  # type: ignore[index, operator]
    assert prefine("sample", "run.yaml").code == OK
    after = manifest("sample")
    assert answers() == 36
    assert after["replayed"] == kept
    assert after["usage"]["calls"] == 36  # type: ignore[index]
    assert 0 <= after["repeated_after_interruption"] <= 3  # type: ignore[operator]
    assert tables() == fresh_run(place, "sample")


def test_kill_while_prompts_are_ranked_side_by_side(place: Place) -> None:
    place.put(
        "my_judge.py",
        b"import time\n"
        b"def slow(prompt, completion):\n"
        b"    time.sleep(0.02 * (1 + len(prompt.text + completion.text) % 5))\n"
        b"    return float(7 * len(completion.text) % 5)\n"
        b"slow.concurrency = 8\n",
    )
    rows = [
        {"prompt": "why " * (n + 1), "completions": [f"{n} {'so ' * m}" for m in range(6)]}
        for n in range(60)
    ]
    place.put("answers.jsonl", jsonl(rows))
    place.change({"rank.judge": {"name": "my_judge:slow"}, "rank.strategy": {"name": "merge"}})
    assert prefine("sample", "run.yaml").code == OK
    asked_again = 0
    for moment in (20, 90, 200):
        process = start("rank", "run.yaml")
        wait_for(lambda moment=moment: answers() >= moment)  # type: ignore[misc]
        process.kill()
        process.communicate()
        kept = answers()
        asked_again += 8
    assert kept < 360
    assert prefine("rank", "run.yaml").code == OK
    after = manifest("rank")
    assert (answers(), after["replayed"]) == (360, kept), "each completion is scored once"
    assert after["usage"]["calls"] == 360  # type: ignore[index]
    assert 0 < after["repeated_after_interruption"] <= asked_again  # type: ignore[operator]
    fresh = fresh_run(place, "sample", "rank")
    assert tables() == fresh


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_at_a_safe_place(place: Place, number: signal.Signals) -> None:
    slow_sampling(place)
    process = start("sample", "run.yaml")
    wait_for(lambda: answers() >= 4)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert "the same command" in err
    assert "Traceback" not in err
    assert answers() < 36, "it stops after the calls in flight, not after the shard"
    stopped = manifest("sample")
    assert (stopped["complete"], stopped["usage"]["calls"]) == (False, answers())  # type: ignore[index]
    assert prefine("sample", "run.yaml").code == OK
    assert manifest("sample")["repeated_after_interruption"] == 0
    assert tables() == fresh_run(place, "sample")


def test_a_run_folder_in_use(place: Place) -> None:
    slow_sampling(place)
    process = start("sample", "run.yaml")
    wait_for(lambda: answers() >= 1)
    result = prefine("sample", "run.yaml")
    assert result.code == 2
    for fragment in ("run: another process", str(process.pid), "--run-dir"):
        assert fragment in result.err
    assert prefine("report", "run.yaml").code == 2
    _, err = process.communicate(timeout=60)
    assert process.returncode == OK, err
    assert answers() == 36
    assert prefine("sample", "run.yaml").code == OK, "the lease ends with its process"


def test_a_failed_item_is_asked_again_and_the_others_are_not(place: Place) -> None:
    place.change(SAMPLED | {"policy.fail_share": 0.4, "sample.max_failed_fraction": 0.02})
    first = prefine("sample", "run.yaml")
    assert first.code == LIMIT
    assert "scripted failure" in first.err
    kept = answers()
    assert 0 < kept < 12
    place.change({"sample.max_failed_fraction": 1.0})
    assert prefine("sample", "run.yaml").code == OK, "the limit may be raised"
    after = manifest("sample")
    assert answers() == kept
    assert after["counts"]["produced"] == kept  # type: ignore[index]
    assert after["counts"]["failed"] == {"scripted failure": 12 - kept}  # type: ignore[index]
    assert after["replayed"] == kept, "what was answered is not asked again"


def test_the_call_limit_may_be_raised(place: Place) -> None:
    place.change({"rank.max_calls": 5})
    assert prefine("sample", "run.yaml").code == OK
    assert prefine("rank", "run.yaml").code == LIMIT
    kept = answers()
    assert 0 < kept <= 5
    assert manifest("rank")["usage"]["calls"] == kept  # type: ignore[index]
    assert "max_calls" in str(manifest("rank")["stopped_by"])
    assert prefine("report", "run.yaml").code == OK
    page = (place.root / "run" / "report.html").read_text(encoding="utf-8")
    assert "It stopped with: " in page and "max_calls" in page
    place.change({"rank.max_calls": 100})
    assert prefine("rank", "run.yaml").code == OK
    assert manifest("rank")["stopped_by"] is None
    assert manifest("rank")["replayed"] == kept
    assert manifest("rank")["usage"]["calls"] == answers()  # type: ignore[index]
    assert tables() == fresh_run(place, "sample", "rank")


def test_data_mended_in_place(place: Place) -> None:
    good = (place.root / "answers.jsonl").read_bytes()
    place.put("answers.jsonl", good.replace(b'"grade": 2', b'"grade": NaN', 1))
    assert prefine("run", "run.yaml").code == DATA
    place.put("answers.jsonl", good)
    assert prefine("run", "run.yaml").code == OK
    assert prefine("run", "run.yaml").code == OK, "and again"


def test_more_prompts_extend_a_run(place: Place) -> None:
    slow_sampling(place, prompts=4, delay_s=0)
    assert prefine("sample", "run.yaml").code == OK
    slow_sampling(place, prompts=6, delay_s=0)
    place.change({"sample.completions_per_prompt": 4})
    assert prefine("sample", "run.yaml").code == OK
    assert manifest("sample")["replayed"] == 4 * 3
    assert manifest("sample")["usage"]["calls"] == 6 * 4  # type: ignore[index]
    assert tables() == fresh_run(place, "sample")


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
    ],
)
@pytest.mark.parametrize("table", ["completions", "rankings", "judgments", "pairs"])
def test_a_lost_part_is_rebuilt_without_a_call(
    place: Place, table: str, damage: Callable[[Path], object]
) -> None:
    place.change({"policy": SAMPLED["policy"]})
    stages = ("sample", "rank", "pair")
    for stage in stages:
        assert prefine(stage, "run.yaml").code == OK
    before, paid = tables(), answers()
    damage(Path("run") / table / "part-00000.parquet")
    for stage in stages:
        result = prefine(stage, "run.yaml")
        assert result.code == OK, result.err
    assert tables() == before
    assert answers() == paid
    assert manifest("rank")["usage"]["calls"] <= paid  # type: ignore[operator, index]


def test_a_flipped_byte_is_repaired(place: Place) -> None:
    place.change(SAMPLED)
    assert prefine("sample", "run.yaml").code == OK
    before = tables()
    path = Path("run/completions/part-00000.parquet")
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    assert prefine("sample", "run.yaml").code == OK
    assert tables() == before


def test_a_torn_write_ahead_log_keeps_what_was_committed(place: Place) -> None:
    place.change(SAMPLED)
    assert prefine("sample", "run.yaml").code == OK
    with closing(Journal(JOURNAL)) as journal:
        journal.write(JournalGroup(answers={"more": "{}"}))
        content = Path(f"{JOURNAL}-wal").read_bytes()
        copy = place.root / "copy.sqlite"
        copy.write_bytes(JOURNAL.read_bytes())
        Path(f"{copy}-wal").write_bytes(content[:-100])
    with closing(Journal(copy)) as torn:
        assert torn.count() == 12
