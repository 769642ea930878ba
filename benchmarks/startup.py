"""How long `prefine train` takes from its start to its first step, beside what importing the libraries takes.

    python benchmarks/startup.py [--runs 5] [--adapter]

Every run is the real command in its own process on the embedded playground model and a handful of pairs. The clock
stops when the first row of `train_log.jsonl` is there; the process is then ended. Prints every run and the medians.
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

import yaml

PROMISED_S = 8.0
IMPORTS = "import torch, transformers"


def prepared(folder: Path, *, adapter: bool) -> Path:
    """A configuration beside a run folder whose pairs are ready; the configuration's path."""
    rows = [{"prompt": f"write about tea {n} .", "chosen": f"good tea {n} .", "rejected": f"no {n}"} for n in range(16)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "run_dir": str(folder / "run"),
        "policy": {"name": "playground"},
        "pairs": {"name": "file", "path": str(folder / "pairs.jsonl")},
        "train": {
            "regularizer": {"name": "budget"},
            "pairs_per_step": 4,
            "learning_rate": 1e-5,
            "adapter": {"name": "lora"} if adapter else None,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "prefine", "pair", str(path)], check=True, capture_output=True)
    return path


def seconds_to_first_step(config: Path, run_dir: Path) -> float:
    """Seconds from starting the command to the first whole row of its log."""
    shutil.copytree(config.parent / "run", run_dir)
    log = run_dir / "train_log.jsonl"
    began = time.monotonic()
    command = [sys.executable, "-m", "prefine", "train", str(config), "--run-dir", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (log.exists() and b"\n" in log.read_bytes()):
            if process.poll() is not None:
                raise RuntimeError(
                    f"the command ended before its first step:\n{process.stderr and process.stderr.read()}"
                )
            time.sleep(0.005)
        seconds = time.monotonic() - began
        process.kill()
    return seconds


def seconds_to_import() -> float:
    """Seconds that a process takes to import the libraries and nothing else."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began


def main() -> int:
    """Measure and print; 1 if the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--adapter", action="store_true", help="train an adapter, which needs one library more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        config = prepared(Path(name), adapter=options.adapter)
        steps, imports = [], []
        for number in range(options.runs):
            imports.append(seconds_to_import())
            steps.append(seconds_to_first_step(config, Path(name) / f"run-{number}"))
            print(
                f"run {number + 1}: first step after {steps[-1]:.2f} s, imports alone {imports[-1]:.2f} s", flush=True
            )
    kept = median(steps) <= PROMISED_S
    print(f"median of {options.runs}: first step after {median(steps):.2f} s (promised: {PROMISED_S:.0f} s), ", end="")
    print(f"`{IMPORTS}` alone {median(imports):.2f} s: {'kept' if kept else 'not kept'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
