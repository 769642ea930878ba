"""kill -9 in the middle of a run, then the same command: the same bytes, and nothing paid for
twice.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from command import prefine, start

CONFIG = """
run_dir: unused
policy: {name: playground}
prompts: {name: playground, count: 40, split: train}
sample: {completions_per_prompt: 3, temperature: 1.0, max_new_tokens: 40, shard_prompts: 16}
rank: {judge: {name: playground}}
train:
  regularizer: {name: budget, delta: 1}
  pairs_per_step: 8
  epochs: 2
  learning_rate: 1e-4
  checkpoint_every: 2
evaluate:
  prompts: {name: playground, count: 12, split: test}
  gold: {name: playground}
"""
KEPT = (
    "completions/*",
    "rankings/*",
    "judgments/*",
    "evaluation/judgments/*",
    "pairs/*",
    "train_log.jsonl",
    "train_final.json",
    "model/*",
    "metrics.json",
)


def arguments(folder: Path) -> tuple[str, ...]:
    return ("run", str(folder.parent / "config.yaml"), "--run-dir", str(folder))


def finish(folder: Path) -> None:
    found = prefine(*arguments(folder))
    assert found.code == 0, found.err


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for glob in KEPT
        for path in sorted(folder.glob(glob))
    }


def journaled(folder: Path) -> int:
    journal = folder / "journal" / "part-00000.sqlite"
    if not journal.exists():
        return 0
    with closing(sqlite3.connect(journal)) as connection:
        try:
            return int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # the process is just making the file


def stages(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / "manifest.json"
    found: dict[str, dict[str, object]] = (
        json.loads(path.read_text())["stages"] if path.exists() else {}
    )
    return found


def kill_when(folder: Path, moment: Callable[[], bool]) -> None:
    """Start the run, and kill it without warning at the moment."""
    process = start(*arguments(folder))
    end = time.monotonic() + 300
    while process.poll() is None and not moment():
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def resume_and_compare(folder: Path, whole: dict[str, bytes]) -> None:
    """The same command again gives the bytes of an uninterrupted run, and asks only what was
    not answered.
    """
    answered = journaled(folder)
    done = {name for name, manifest in stages(folder).items() if manifest["complete"]}
    finish(folder)
    assert contents(folder) == whole
    manifests = stages(folder)
    asked = sum(
        m["usage"]["calls"] - m["replayed"] for name, m in manifests.items() if name not in done
    )  # type: ignore
    assert asked == journaled(folder) - answered, "a journaled answer was asked for again"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    base = tmp_path_factory.mktemp("kill")
    (base / "config.yaml").write_text(CONFIG)
    finish(base / "whole")
    found = contents(base / "whole")
    assert {name.split("/")[0] for name in found} == {glob.split("/")[0] for glob in KEPT}
    return base, found


def log_rows(folder: Path) -> int:
    path = folder / "train_log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("sampling", lambda folder: journaled(folder) >= 32),
        ("ranking", lambda folder: (folder / "rankings" / "part-00000.parquet").exists()),
        ("training", lambda folder: log_rows(folder) >= 5),
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(
    uninterrupted: tuple[Path, dict[str, bytes]], name: str, moment: Callable[[Path], bool]
) -> None:
    base, whole = uninterrupted
    folder = base / name
    kill_when(folder, lambda: moment(folder))
    resume_and_compare(folder, whole)


@pytest.mark.torture
def test_twenty_kills_at_random_moments(uninterrupted: tuple[Path, dict[str, bytes]]) -> None:
    base, whole = uninterrupted
    rng = random.Random(int(os.environ.get("PREFINE_TORTURE_SEED", "0")))
    for number in range(20):
        folder = base / f"random-{number}"
        end = time.monotonic() + rng.uniform(2, 16)
        kill_when(folder, lambda end=end: time.monotonic() >= end)  # type: ignore[misc]
        reached = [*stages(folder)]
        resume_and_compare(folder, whole)
        print(
            f"kill {number + 1:2d}: stages begun {reached}, {journaled(folder)} answers, bytes "
            "equal"
        )
        shutil.rmtree(folder)
