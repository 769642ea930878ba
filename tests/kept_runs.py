"""Runs at an S3-like server on loopback: killed on one machine, gone on with on another.

A machine is a folder: what a run has there is gone when the folder is.
"""

import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from command import Started, start
from prefine.run import segments
from prefine.run.remote import Remote
from run_place import Place, jsonl

BUCKET = "prefine-runs"
KEPT = (
    *("completions", "judgments", "rankings", "pairs", "model"),
    *("train_log.jsonl", "train_final.json"),
)
"""What must have the same bytes, wherever a run was worked on."""

SLOW_LOSS = """
import os
import time
from prefine.losses import dpo
from prefine.losses.protocol import declare

@declare()
def slow(logps):
    time.sleep(float(os.environ.get("PAUSE_S", "0")))
    return dpo(logps)
"""
"""A loss whose steps take long enough to be hit, where PAUSE_S says so."""


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Serve S3 on loopback with an empty bucket; yields the variables for those who use it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "loopback",
        "AWS_SECRET_ACCESS_KEY": "loopback",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        import s3fs

        files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        files.mkdir(BUCKET)
        yield variables
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        server.stop()


def judged_place(place: Place, judge_url: str, *, prompts: int, concurrency: int) -> None:
    """A run whose judge is asked at a server, with answers enough to be killed in between."""
    rows = [
        {"prompt": f"question {n}", "completions": [f"answer {n} {m}" for m in range(4)]}
        for n in range(prompts)
    ]
    place.put("answers.jsonl", jsonl(rows))
    model = {"name": "openai", "model": "m", "base_url": judge_url, "concurrency": concurrency}
    place.change({"rank.judge": {"name": "pairwise", "model": model}})


def slow_training(place: Place, *, steps: int) -> None:
    """A training with a checkpoint every 2 steps, each of which may be slow."""
    place.put("slow_loss.py", SLOW_LOSS)
    settings = {"max_steps": steps, "epochs": 9, "checkpoint_every": 2, "regularizer": None}
    place.change({f"train.{name}": value for name, value in settings.items()})
    place.change({"train.loss": {"name": "slow_loss:slow"}})


def started(place: Place, url: str, machine: str, variables: dict[str, str]) -> Started:
    """Start the run at a URL on a machine."""
    local = place.root / machine / "work"
    return start(
        *("run", "run.yaml", "--run-dir", url, "--set", f"storage.local={local}"), env=variables
    )


def lost(place: Place, machine: str) -> None:
    """Empty the disk of a machine."""
    shutil.rmtree(place.root / machine)


def killed_when(process: Started, moment: Callable[[], bool], limit_s: float = 120) -> None:
    """Kill a process without warning at the moment, or at once after it."""
    end = time.monotonic() + limit_s
    while not moment():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the moment never came"
        time.sleep(0.05)
    process.kill()
    process.communicate()


def answers_at(url: str) -> int:
    """Count the answers that are journaled at the store, by building the journal from there."""
    remote = Remote(url)
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for journal, pieces in segments.pieces_of(remote.listing()).items():
            to = Path(folder) / journal
            segments.restore(remote, pieces, to)
            with closing(sqlite3.connect(to)) as connection:
                found += int(connection.execute("SELECT COUNT(*) FROM answers").fetchone()[0])
    return found


def segments_at(url: str) -> int:
    """Count the segments of journals at the store."""
    return sum(
        len(pieces) for pieces in segments.pieces_of(Remote(url).listing("journal")).values()
    )


def checkpoints_at(url: str) -> list[str]:
    """The checkpoints that are whole at the store."""
    names = Remote(url).listing("checkpoints")
    return sorted(name.split("/")[1] for name in names if name.endswith("/hashes.json"))


def kept(folder: Path) -> dict[str, bytes]:
    """The files of a run folder that must have the same bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] in KEPT
    }


def kept_at(url: str) -> dict[str, bytes]:
    """The same files at the store."""
    remote = Remote(url)
    names = [name for name in remote.listing() if name.split("/")[0] in KEPT]
    return {name: remote.read(name) for name in sorted(names)}


def stage(folder: Path, name: str) -> dict[str, Any]:
    """The manifest of a stage."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["stages"][name]
    return found
