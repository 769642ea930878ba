"""Time of `prefine train`: until its first step, and for a whole training of two steps.

    python benchmarks/startup.py [--runs 5] [--adapter]

Every run is the real command in its own process on the embedded playground model and a handful of
pairs. The first step is there with the first row of `train_log.jsonl`; the whole training ends with
its process: model, card and manifest are written. Also times the import of the libraries alone.
Prints every run, then one line for each promise: ok or MISS, of the median.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml

from line import Line

PROMISED_S = 8.0
STEPS = 2
IMPORTS = "import torch, transformers"


def prepared(folder: Path, *, adapter: bool) -> Path:
    """A configuration beside a run folder whose pairs are ready; the configuration's path."""
    rows = [
        {"prompt": f"write about tea {n} .", "chosen": f"good tea {n} .", "rejected": f"no {n}"}
        for n in range(16)
    ]
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    config = {
        "run_dir": str(folder / "run"),
        "policy": {"name": "playground"},
        "pairs": {"name": "file", "path": str(folder / "pairs.jsonl")},
        "train": {
            "regularizer": {"name": "budget"},
            "pairs_per_step": 4,
            "learning_rate": 1e-5,
            "max_steps": STEPS,
            "adapter": {"name": "lora"} if adapter else None,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "prefine", "pair", str(path)], check=True, capture_output=True
    )
    return path


class Seconds(NamedTuple):
    """From starting the command to the first whole row of its log, and to its end."""

    first_step: float
    whole: float


def seconds_to_train(config: Path, run_dir: Path) -> Seconds:
    """Train two steps in a fresh copy of the run folder.

    Raises:
        RuntimeError: The command failed.
    """
    shutil.copytree(config.parent / "run", run_dir)
    log = run_dir / "train_log.jsonl"
    command = [sys.executable, "-m", "prefine", "train", str(config), "--run-dir", str(run_dir)]
    began = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (log.exists() and b"\n" in log.read_bytes()):
            time.sleep(0.005)
        first = time.monotonic() - began
        said = process.communicate()[1]
        whole = time.monotonic() - began
    if process.returncode != 0:
        raise RuntimeError(f"the command ended with {process.returncode}:\n{said}")
    return Seconds(first, whole)


def seconds_to_import() -> float:
    """Seconds that a process takes to import the libraries and nothing else."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began


def main() -> int:
    """Measure and print; 1 if the promise is not kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--adapter", action="store_true", help="train an adapter, which needs one library more"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = prepared(Path(name), adapter=options.adapter)
        found, imports = [], []
        for number in range(options.runs):
            imports.append(seconds_to_import())
            found.append(seconds_to_train(config, Path(name) / f"run-{number}"))
            print(
                f"run {number + 1}: first step after {found[-1].first_step:.2f} s, whole training "
                f"{found[-1].whole:.2f} s, imports alone {imports[-1]:.2f} s",
                flush=True,
            )
    note = (
        f"<= {PROMISED_S:g} s; median of {options.runs}; `{IMPORTS}` alone {median(imports):.2f} s"
    )
    kept = True
    for what, seconds in (
        ("tiny model, first step of `prefine train`", median(run.first_step for run in found)),
        (f"tiny model, whole `prefine train` of {STEPS} steps", median(run.whole for run in found)),
    ):
        line = Line(what, f"{seconds:.2f} s ({note})", seconds <= PROMISED_S)
        kept &= line.ok is True
        print(line)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
