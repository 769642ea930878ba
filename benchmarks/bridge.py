"""Bridged pairs on the playground: bridge, token weights, both, or none, from the same rankings.

    python benchmarks/bridge.py run [--out DIR] [--seeds N] [--minutes N]
    python benchmarks/bridge.py show

`run` samples, ranks, pairs and bridges once for each seed, with `configs/bridge.yaml`, and then
trains and evaluates each arm through `prefine run`; nothing is sampled or judged twice. Each
finished trial is a line of `results/bridge.jsonl`; those that are there are not run again. `show`
prints the paired differences of gold win rates over the initial model, with intervals over seeds
and prompts. All arms have the same prompts, verdicts on them, steps and seeds.

The bridger of the playground reads the prompt and both answers and knows no gold score, but it
follows instructions better than the policy; so the table says what such a bridger is worth.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from arm_figures import difference, shares, win_rate, wins_of
from line import Line

HERE = Path(__file__).parent
CONFIG = HERE.parent / "configs" / "bridge.yaml"
RESULTS = HERE / "results" / "bridge.jsonl"
PROMPTS = 600
"""Test prompts of every trial, the same ones."""
SIZES = (
    "prompts.count=512",
    "sample.completions_per_prompt=4",
    "train.epochs=4",
    f"evaluate.prompts.count={PROMPTS}",
)
"""Half the prompts and half the completions of the demo, in two thirds of its steps."""
SEEDED = ("prompts", "sample", "rank", "rank.judge", "pair", "bridge", "train")
ARMS: dict[str, tuple[str, ...]] = {
    "none": ("bridge=null", "train.loss={name: dpo, beta: 0.1}"),
    "bridge": ("train.loss={name: dpo, beta: 0.1}",),
    "weights": ("bridge=null",),
    "both": (),
}
SHARED = ("journal", "completions", "rankings")


def command(what: str, folder: Path, seed: int, settings: tuple[str, ...]) -> None:
    """Run a stage, or all of them, in a folder."""
    seeded = [f"{place}.seed={seed}" for place in SEEDED]
    if "bridge=null" in settings:
        seeded.remove(f"bridge.seed={seed}")
    words = [sys.executable, "-m", "prefine", what, str(CONFIG), "--run-dir", str(folder)]
    for one in (*seeded, *SIZES, *settings):
        words += ["--set", one]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def trial(arm: str, seed: int, out: Path, donor: Path) -> dict[str, Any]:
    """Train and evaluate one arm, beginning with what the donor was answered."""
    folder, began = out / f"{arm}-{seed}", time.monotonic()
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in SHARED:
            shutil.copytree(donor / name, folder / name)
    command("run", folder, seed, ARMS[arm])
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    rows = [
        json.loads(line)
        for line in (folder / "evaluation" / "outcomes.jsonl").read_text().splitlines()
    ]
    gains = {
        row["prompt_id"]: fmean(row["gold_after"].values()) - fmean(row["gold_before"].values())
        for row in rows
    }
    final = json.loads((folder / "train_final.json").read_text())["final"]
    bridged = stages["bridge"]["counts"] if "bridge" in stages else None
    return {
        "arm": arm,
        "seed": seed,
        "pairs": stages["train"]["counts"]["taken"],
        "bridged": bridged and bridged["produced"],
        "outcomes": bridged and {**bridged["failed"], **bridged["dropped"]},
        "fall": final["fall"],
        "accuracy": final["accuracy"],
        "characters": fmean(len(row["after"]) for row in rows),
        "wins": wins_of(gains),
        "seconds": round(time.monotonic() - began, 1),
    }


def show(path: Path) -> None:
    """Print each arm's gold win rate and the paired differences of all arms."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = {(row["arm"], row["seed"]): row for row in rows}
    seeds = [
        seed
        for seed in sorted({row["seed"] for row in rows})
        if all((arm, seed) in found for arm in ARMS)
    ]
    lines = []
    wins: dict[str, list[list[float]]] = {}
    for arm in ARMS:
        ours = [found[arm, seed] for seed in seeds]
        wins[arm] = [shares(row["wins"]) for row in ours]
        figure = win_rate(wins[arm])
        figure += f", chosen fell {fmean(row['fall'] for row in ours):+.2f} nats"
        figure += f", {fmean(row['characters'] for row in ours):.0f} characters"
        if ours[0]["bridged"] is not None:
            share = sum(row["bridged"] for row in ours) / sum(row["pairs"] for row in ours)
            figure += f", {share:.0%} of pairs bridged"
        lines.append(Line(arm, figure))
    for one, other in combinations(ARMS, 2):
        lines.append(Line(f"{other} minus {one}", difference(wins[one], wins[other])))
    count = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
    print(f"{count}, {PROMPTS:,} test prompts, configs/bridge.yaml with {', '.join(SIZES)}")
    print(*lines, sep="\n")


def main() -> None:
    """Run what is missing, or show what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-bridge"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    if options.what == "show":
        show(RESULTS)
        return
    began = time.monotonic()
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    done = {(row["arm"], row["seed"]) for row in map(json.loads, lines)}
    for seed in range(options.seeds):
        missing = [arm for arm in ARMS if (arm, seed) not in done]
        if not missing:
            continue
        donor = options.out / f"base-{seed}"
        for stage in ("sample", "rank", "pair", "bridge"):
            command(stage, donor, seed, ())
        for arm in missing:
            if time.monotonic() - began > 60 * options.minutes:
                return
            found = trial(arm, seed, options.out, donor)
            # The next arm finds the baseline's answers there, too.
            donor = options.out / f"{arm}-{seed}"
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps({k: v for k, v in found.items() if k != "wins"}), flush=True)


if __name__ == "__main__":
    main()
