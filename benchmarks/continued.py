"""Runs that another version began and left in the middle, continued by this one.

    python benchmarks/continued.py --before CHECKOUT [--out DIR]

The demo's configuration with fewer prompts. The other checkout makes one run to its end, and two
that are killed without warning, one while it ranks and one while it trains. Then this checkout is
given the same command on the killed folders. Prints for each whether an answer of the journal was
asked for again, where the training went on, and whether every file that a run is made of has the
bytes of the whole one; columns and figures that this version adds are named.
"""

import argparse
import io
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from line import Line

HERE = Path(__file__).parent.parent
SETTINGS = (
    "prompts.count=256",
    "sample.shard_prompts=32",
    "evaluate.prompts.count=60",
    "train.checkpoint_every=2",
    "train.pairs_per_step=16",
)
CLOSE = 1e-7
"""The quantile of Student's t is another library's now: ends of intervals move by about 1e-8."""
KEPT = (
    "completions/*",
    "rankings/*",
    "pairs/*",
    "train_log.jsonl",
    "train_final.json",
    "model/*.safetensors",
    "metrics.json",
)


def start(checkout: Path, folder: Path) -> "subprocess.Popen[str]":
    """The command of a checkout, begun."""
    command = [
        sys.executable,
        "-m",
        "prefine",
        "run",
        str(HERE / "src/prefine/playground/demo.yaml"),
    ]
    command += ["--run-dir", str(folder)]
    for setting in SETTINGS:
        command += ["--set", setting]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def finish(checkout: Path, folder: Path) -> str:
    """Run the command to its end; what it said."""
    process = start(checkout, folder)
    _, said = process.communicate(timeout=900)
    if process.returncode:
        raise RuntimeError(f"it ended with {process.returncode}:\n{said[-2000:]}")
    return said


def kill_when(checkout: Path, folder: Path, moment: Callable[[], bool]) -> None:
    """Begin a run, and kill it at the moment."""
    process, end = start(checkout, folder), time.monotonic() + 900
    while process.poll() is None and not moment():
        if time.monotonic() > end:
            raise RuntimeError("the moment never came")
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def answers(folder: Path) -> set[str]:
    """The keys of the journaled answers."""
    path = folder / "journal" / "part-00000.sqlite"
    try:
        with closing(sqlite3.connect(path)) as connection:
            return {key for (key,) in connection.execute("SELECT key FROM answers")}
    except sqlite3.OperationalError:
        return set()


def log_rows(folder: Path) -> int:
    """Rows of the training log."""
    path = folder / "train_log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def manifests(folder: Path) -> dict[str, Any]:
    """The manifests by stage."""
    path = folder / "manifest.json"
    found: dict[str, Any] = json.loads(path.read_text())["stages"] if path.exists() else {}
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a run is made of."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for glob in KEPT
        for path in sorted(folder.glob(glob))
    }


def compared(older: dict[str, bytes], newer: dict[str, bytes]) -> str | None:
    """What the newer version adds to the bytes of the older one; None if anything else differs.

    It may add columns to a table and values to metrics.json, whose numbers are equal to `CLOSE`.
    """
    if older.keys() != newer.keys():
        return None
    added: set[str] = set()
    for name, before in older.items():
        after = newer[name]
        if name == "metrics.json":
            if not _contained(json.loads(before), json.loads(after)):
                return None
            added |= {"values in metrics.json"} if before != after else set()
        elif name.endswith(".parquet") and before != after:
            tables = [pq.ParquetFile(io.BytesIO(content)).read() for content in (before, after)]
            columns, new = tables[0].column_names, set(tables[1].column_names)
            new -= set(columns)
            if not new or tables[0] != tables[1].drop_columns(sorted(new)):
                return None
            added |= {f"column {column} of {name.partition('/')[0]}" for column in new}
        elif before != after:
            return None
    return ", ".join(sorted(added))


def _contained(old: Any, new: Any) -> bool:
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and _contained(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        rest = iter(new)
        return all(any(_contained(item, found) for found in rest) for item in old)
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=CLOSE)
    return bool(old == new)


def main() -> None:
    """Make, kill and continue the runs; print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--out", type=Path, default=Path(tempfile.mkdtemp()))
    options = parser.parse_args()
    before, out = options.before.resolve(), options.out
    finish(before, out / "whole")
    whole = contents(out / "whole")
    moments: dict[str, Callable[[Path], bool]] = {
        "rank": lambda folder: (folder / "rankings" / "part-00002.parquet").exists(),
        "train": lambda folder: log_rows(folder) >= 9,
    }
    missed = 0
    for stage, moment in moments.items():
        folder = out / stage
        kill_when(before, folder, lambda folder=folder, moment=moment: moment(folder))  # type: ignore[misc]
        known, rows = answers(folder), log_rows(folder)
        done = {name for name, manifest in manifests(folder).items() if manifest["complete"]}
        finish(HERE, folder)
        after = manifests(folder)
        asked = sum(
            manifest["usage"]["calls"] - manifest["replayed"]
            for name, manifest in after.items()
            if name not in done
        )
        again = asked - len(answers(folder) - known)
        added = compared(whole, contents(folder))
        equal = added is not None
        missed += bool(again) or not equal
        where = f"; {len(known):,} answers, {rows} steps when it was killed"
        but = f", but for {added}" if added else ""
        text = f"{again} answers asked again, bytes {'equal' if equal else 'DIFFER'}{but}{where}"
        print(Line(f"killed in {stage}, continued", text, not again and equal), flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
