"""Pairs across prompts on the playground, at equal judge calls: with them, without, by standing.

    python benchmarks/joint.py run [--out DIR] [--seeds N] [--minutes N] [--small]
    python benchmarks/joint.py show

Every trial is `prefine run` on the demo's configuration, with 7 judge calls a prompt: eight answers
and their best by a scan (conditional pairs alone), or six answers and one comparison with another
prompt in both orders (joint pairs that the judge decided). `standing` has the calls of the first
and joins prompts by standing, without a call. All have two pairs a prompt and the same steps. Each
finished trial is a line of `results/joint.jsonl`; those that are there are not run again. `show`
prints gold win rates over the initial model and their paired differences, with intervals over seeds
and prompts. `--small` is for trying it, and writes no line.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from arm_figures import difference, shares, win_rate, wins_of
from line import Line

CONFIG = str(files("prefine.playground") / "demo.yaml")
RESULTS = Path(__file__).parent / "results" / "joint.jsonl"
PROMPTS = 600
"""Test prompts of every trial, the same ones."""
SIZES = ("train.max_steps=60", f"evaluate.prompts.count={PROMPTS}", "prompts.count=768")
SMALL = ("train.max_steps=3", "evaluate.prompts.count=30", "prompts.count=40")
SEEDED = ("prompts", "sample", "rank", "rank.judge", "pair", "train")
SCAN = "rank.strategy={name: iterative, order: single}"
SEVEN = ("sample.completions_per_prompt=8", SCAN, "pair.pairs_per_prompt=2")
ARMS: dict[str, tuple[str, ...]] = {
    "conditional": SEVEN,
    "standing": (*SEVEN, "pair.selector={name: joint}", "train.loss={name: jpo}"),
    "judged": (
        "sample.completions_per_prompt=6",
        SCAN,
        "rank.across={meet: [best_vs_loser], per_prompt: 1, order: both}",
        "pair.selector={name: joint}",
        "pair.pairs_per_prompt=2",
        "train.loss={name: jpo}",
    ),
}


def trial(arm: str, seed: int, out: Path, sizes: tuple[str, ...]) -> dict[str, Any]:
    """Run one arm with one seed."""
    folder, began = out / f"{arm}-{seed}", time.monotonic()
    words = [sys.executable, "-m", "prefine", "run", CONFIG, "--run-dir", str(folder)]
    # Without a budget, which would hold the arms by different amounts.
    settings = ("train.regularizer=null", "train.regularizer_weight=0", *sizes, *ARMS[arm])
    for one in (*(f"{place}.seed={seed}" for place in SEEDED), *settings):
        words += ["--set", one]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    rows = [
        json.loads(line)
        for line in (folder / "evaluation" / "outcomes.jsonl").read_text().splitlines()
    ]
    gains = {
        row["prompt_id"]: fmean(row["gold_after"].values()) - fmean(row["gold_before"].values())
        for row in rows
    }
    return {
        "arm": arm,
        "seed": seed,
        "calls": stages["rank"]["usage"]["calls"],
        "pairs": stages["train"]["counts"]["taken"],
        "wins": wins_of(gains),
        "seconds": round(time.monotonic() - began, 1),
    }


def show(path: Path) -> None:
    """Print each arm's gold win rate, and the paired differences of all arms."""
    found = {(row["arm"], row["seed"]): row for row in map(json.loads, path.open())}
    seeds = sorted({seed for _, seed in found if all((arm, seed) in found for arm in ARMS)})
    wins: dict[str, list[list[float]]] = {}
    for arm in ARMS:
        ours = [found[arm, seed] for seed in seeds]
        wins[arm] = [shares(row["wins"]) for row in ours]
        calls, pairs = (fmean(row[name] for row in ours) for name in ("calls", "pairs"))
        print(Line(arm, f"{win_rate(wins[arm])}, {calls:,.0f} judge calls, {pairs:,.0f} pairs"))
    for one, other in combinations(ARMS, 2):
        print(Line(f"{other} minus {one}", difference(wins[one], wins[other])))
    print(f"{len(seeds)} seeds, {PROMPTS:,} test prompts")


def main() -> None:
    """Run what is missing, or show what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-joint"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if options.what == "show":
        show(RESULTS)
        return
    began = time.monotonic()
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    done = {(row["arm"], row["seed"]) for row in map(json.loads, lines)}
    for seed in range(options.seeds):
        for arm in ARMS:
            if time.monotonic() - began > 60 * options.minutes:
                return
            if (arm, seed) in done and not options.small:
                continue
            found = trial(arm, seed, options.out, SMALL if options.small else SIZES)
            if not options.small:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            print(json.dumps({k: v for k, v in found.items() if k != "wins"}), flush=True)


if __name__ == "__main__":
    main()
