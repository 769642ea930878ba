"""Ray itself: two workers of this machine rank, and one of them is killed on the way."""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from command import prefine, start

PROMPTS = 600  # three parts of 256
CONFIG = """
run_dir: unused
policy: {name: scripted, replies: [unused]}
completions: completions.jsonl
rank: {strategy: round_robin, judge: "logging_judge:longer"}
"""
# Every call is noted with its process, before its answer is given.
JUDGE = """
import os, time

def longer(prompt, completion):
    with open("asked.log", "a") as log:
        log.write(f"{completion.id} {os.getpid()}\\n")
    time.sleep(0.001)
    return len(completion.text)

longer.concurrency = 2
"""
TABLES = ("completions", "rankings", "judgments")


def contents(run: Path) -> dict[str, bytes]:
    paths = [path for table in TABLES for path in sorted((run / table).iterdir())]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def asked(folder: Path) -> list[tuple[str, int]]:
    log = folder / "asked.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(id_, int(pid)) for id_, pid in (line.split() for line in lines if " " in line)]


def test_a_killed_worker_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that the run does not name
    (tmp_path / "logging_judge.py").write_text(JUDGE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    rows = [
        {"prompt": f"say {n}", "completions": [f"{n}" + "!" * (n * k % 7) for k in range(1, 4)]}
        for n in range(PROMPTS)
    ]
    Path("completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for run in ("alone", "spread"):
        assert prefine("sample", "config.yaml", "--run-dir", run).code == 0
    # One run in this process; the other begins so, is stopped by a limit, and goes on under Ray.
    found = prefine("rank", "config.yaml", "--run-dir", "alone")
    assert found.code == 0, found.err
    (tmp_path / "asked.log").unlink()
    limited = prefine("rank", "config.yaml", "--run-dir", "spread", "--set", "rank.max_calls=300")
    assert limited.code == 5, limited.err
    before = asked(tmp_path)
    assert before

    ray = ("--set", "executor={name: ray, workers: 2, num_cpus: 0.5}", "--run-dir", "spread")
    process = start("rank", "config.yaml", *ray, "--set", "rank.max_calls=100000")
    until = time.monotonic() + 100
    while len(asked(tmp_path)) < len(before) + 200:
        assert process.poll() is None and time.monotonic() < until, "the moment never came"
        time.sleep(0.01)
    victim = asked(tmp_path)[-1][1]
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    assert process.wait(100) == 0

    assert contents(Path("spread")) == contents(Path("alone"))
    notes = json.loads(Path("spread/manifest.json").read_text())["stages"]["rank"]["notes"]
    assert any(note.startswith("1 workers were lost") for note in notes)
    # Asked again was only what was in flight when its process ended.
    twice = [id_ for id_, count in Counter(id_ for id_, _ in asked(tmp_path)).items() if count > 1]
    journal = json.loads(Path("spread/manifest.json").read_text())["stages"]["rank"]
    assert len(twice) <= journal["repeated_after_interruption"] < 64
    assert [path.name for path in Path("spread/journal").iterdir()] == ["part-00000.sqlite"]
    assert not list(Path("spread").glob(".executor-*"))
