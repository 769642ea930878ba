"""What one choice is worth on the playground: the same judgments, seeds and steps, one arm each.

    python benchmarks/arms.py run FAMILY… [--out DIR] [--seeds N] [--minutes N]
    python benchmarks/arms.py show [FAMILY…]

A family is a set of arms that differ in one thing (`FAMILIES`, with what its arms have in common).
`run` trains and evaluates each arm through `prefine run`, in its own folder; what the arms of a
family ask in common is asked once and copied. Each finished trial is a line of
`results/arms.jsonl`; those that are there are not run again. `show` prints each arm's gold win rate
over the initial model, and its paired difference to the first arm, with intervals over seeds and
prompts.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from arm_families import COMMON, FAMILIES, LABELS, PAIRWISE, SELF_PLAY, TUNED, Family
from arm_figures import difference, shares, win_rate, wins_of
from arm_turns import turn_line, turns_of
from line import Line
from prefine.run.item_rows import pair_of
from prefine.run.tables import existing_parts, read_part

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "arms.jsonl"
PROMPTS = 600
"""Test prompts of every trial, the same ones."""
SHARED = ("journal", "completions", "rankings")
SEEDED = ("prompts", "labels", "sample", "rank", "rank.judge", "pair", "train")
"""What has a seed of the trial, where the configuration has such a section."""


def command(what: str, config: Path, folder: Path, seed: int, settings: Sequence[str]) -> None:
    """Run a stage, or all of them, in a folder."""
    unset = {one.removesuffix("=null") for one in settings if one.endswith("=null")}
    sections = yaml.safe_load(config.read_text()).keys() - unset
    seeds = [f"{place}.seed={seed}" for place in SEEDED if place.split(".")[0] in sections]
    test = (f"evaluate.prompts.count={PROMPTS}", "evaluate.seed=0")
    words = [sys.executable, "-m", "prefine", what, str(config), "--run-dir", str(folder)]
    for one in (*seeds, *test, *settings):
        words += ["--set", one]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def settings_of(family: Family, arm: Sequence[str], common: Path | None) -> list[str]:
    """The settings of an arm of a family over its configuration."""
    policy = [f"policy={{name: hf, path: {COMMON}/{TUNED}/model}}"] if family.tuned else []
    return [one.replace(COMMON, str(common)) for one in (*policy, *family.settings, *arm)]


def answer_common(family: Family, seed: int, common: Path) -> None:
    """Make what the arms of a family begin with: a policy, and the answers to its questions."""
    if family.tuned:
        command("run", SELF_PLAY, common / TUNED, seed, family.tuned)
    for stage in family.stages:
        command(stage, family.config, common, seed, settings_of(family, PAIRWISE, common))
    if "pair" in family.stages:
        unpair(common)


def unpair(folder: Path) -> None:
    """Write the answers of a folder's pairs as labelled ones."""
    pairs = [pair_of(row) for part in existing_parts(folder / "pairs") for row in read_part(part)]
    rows = [
        {"prompt": pair.prompt.text, "completion": side.text, "label": side is pair.chosen}
        for pair in pairs
        for side in (pair.chosen, pair.rejected)
    ]
    (folder / LABELS).write_text("".join(json.dumps(row) + "\n" for row in rows))


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of an evaluation by prompt."""
    lines = (folder / "evaluation" / "outcomes.jsonl").read_text().splitlines()
    return {row["prompt_id"]: row for row in map(json.loads, lines)}


def trial(family: Family, arm: str, seed: int, folder: Path, common: Path | None) -> dict[str, Any]:
    """Train and evaluate one arm, beginning with what was answered for all."""
    began = time.monotonic()
    settings = settings_of(family, family.arms[arm], common)
    if (
        common is not None
        and "rank=null" not in settings
        and not (folder / "manifest.json").exists()
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in SHARED:
            shutil.copytree(common / name, folder / name)
    command("run", family.own_configs.get(arm, family.config), folder, seed, settings)
    rounds = sorted(folder.glob("round-*/")) or [folder]
    evaluated = [outcomes(one) for one in rounds]
    before, after = evaluated[0], evaluated[-1]
    gains = {
        name: fmean(row["gold_after"].values()) - fmean(before[name]["gold_before"].values())
        for name, row in after.items()
    }
    manifests = [json.loads((one / "manifest.json").read_text())["stages"] for one in rounds]
    logs = [(one / "train_log.jsonl").read_text().splitlines() for one in rounds]
    return {
        "arm": arm,
        "seed": seed,
        "steps": sum(json.loads(log[-1])["step"] for log in logs),
        "calls": sum(one["rank"]["usage"]["calls"] for one in manifests if "rank" in one),
        "characters": fmean(len(row["after"]) for row in after.values()),
        **(turns_of(evaluated, folder) if len(rounds) > 1 else {}),
        "wins": wins_of(gains),
        "seconds": round(time.monotonic() - began, 1),
    }


def show(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print each arm's gold win rate and its paired difference to the first arm."""
    found = {(row["family"], row["arm"], row["seed"]): row for row in rows}
    for name in names:
        family, seen = FAMILIES[name], {key[1] for key in found if key[0] == name}
        arms = [arm for arm in family.arms if arm in seen]
        if not arms:
            continue
        print(f"{name}: {family.about}; {PROMPTS:,} test prompts")
        wins: dict[str, dict[int, list[float]]] = {}
        for arm in arms:
            ours = [row for key, row in found.items() if key[:2] == (name, arm)]
            wins[arm] = {row["seed"]: shares(row["wins"]) for row in ours}
            print(
                Line(
                    arm,
                    f"{win_rate(list(wins[arm].values()))}, "
                    f"{len(ours)} seed{'s' * (len(ours) != 1)}, "
                    f"{fmean(row['characters'] for row in ours):.0f} characters",
                )
            )
        first = arms[0]
        for arm in arms[1:]:
            both = sorted(wins[first].keys() & wins[arm].keys())
            if not both:
                continue
            ours, theirs = ([wins[one][seed] for seed in both] for one in (arm, first))
            print(Line(f"{arm}: minus {first}", f"{difference(theirs, ours)}, {len(both)} seeds"))
        if name == "hacking":
            print(*(turn_line(row) for key, row in found.items() if key[0] == name), sep="\n")


def main() -> None:
    """Run what is missing, or show what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("families", nargs="*", default=[], help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-arms"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    if unknown := set(options.families) - FAMILIES.keys():
        parser.error(
            f"there is no family {', '.join(sorted(unknown))}; there are: {', '.join(FAMILIES)}"
        )
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    rows = [json.loads(line) for line in lines]
    names = options.families or list(FAMILIES)
    if options.what == "show":
        show(rows, names)
        return
    began = time.monotonic()
    done = {(row["family"], row["arm"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for name in names:
            family, common = FAMILIES[name], None
            missing = [arm for arm in family.arms if (name, arm, seed) not in done]
            if missing and family.stages:
                common = (options.out / name / f"common-{seed}").resolve()
                answer_common(family, seed, common)
            for arm in missing:
                if time.monotonic() - began > 60 * options.minutes:
                    return
                number = list(family.arms).index(arm)
                folder = options.out / name / f"arm-{number}-{seed}"
                found = {"family": name} | trial(family, arm, seed, folder, common)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                print(json.dumps({k: v for k, v in found.items() if k != "wins"}), flush=True)


if __name__ == "__main__":
    main()
