"""Seconds of a training step of this checkout beside another one's, measured in turn.

    python benchmarks/throughput_versions.py --before CHECKOUT [--rounds 7]

Both run their own `throughput_ours.py` on the same pairs, in two processes that wait for each
other: a few steps of one, the same steps of the other, then the other one first. The ratio of a
round is seconds before over seconds now, so 1.1 is ten per cent faster. Prints the median over the
rounds and its 95 % bootstrap interval, for V = 4,096 and 32,000.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from line import Line
from throughput_data import OUTCOME, PAIRS, THREADS

HERE = Path(__file__).parent.parent
LEAST, LEAST_LOW = 0.97, 0.92
STEPS = {4096: 4, 32000: 2}
"""Timed steps of a round, by vocabulary."""
PER_STEP = 4


class Engine:
    """A process of one checkout's engine that measures what it is sent."""

    def __init__(self, checkout: Path) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout / "src"),
            "OMP_NUM_THREADS": str(THREADS),
            "MKL_NUM_THREADS": str(THREADS),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, str(checkout / "benchmarks" / "throughput_ours.py")]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=quiet, text=True
        )

    def seconds(self, work: dict[str, Any]) -> float:
        """The mean seconds of the timed steps."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(work) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(OUTCOME):
                return float(np.mean(json.loads(line.removeprefix(OUTCOME))["step_seconds"]))
        raise RuntimeError("the engine ended without an outcome")

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Measure both sides and print a line for each vocabulary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    engines = {"before": Engine(options.before.resolve()), "now": Engine(HERE)}
    missed = 0
    for vocab, steps in STEPS.items():
        work = {
            "vocab": vocab,
            "drawn_pairs": PAIRS,
            "pairs_per_step": PER_STEP,
            "warm_steps": 1,
            "timed_steps": steps,
        }
        for engine in engines.values():  # a first round that does not count
            engine.seconds(work)
        ratios = []
        for number in range(options.rounds):
            order = ("before", "now") if number % 2 else ("now", "before")
            work["first_step"] = steps * number % (PAIRS // PER_STEP - steps)
            seconds = {side: engines[side].seconds(work) for side in order}
            ratios.append(seconds["before"] / seconds["now"])
        low, high = interval(ratios)
        ok = median(ratios) >= LEAST and low >= LEAST_LOW
        missed += not ok
        shown = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(
            Line(
                f"V={vocab:,}: seconds of a step before / now",
                f"{median(ratios):.3f} (>= {LEAST}) [{low:.3f}, {high:.3f}] (low >= {LEAST_LOW}); "
                f"rounds {shown}",
                ok,
            ),
            flush=True,
        )
    for engine in engines.values():
        engine.close()
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
