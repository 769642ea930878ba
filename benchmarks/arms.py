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
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from arm_figures import difference, shares, win_rate, wins_of
from line import Line
from prefine.run.item_rows import pair_of
from prefine.run.tables import existing_parts, read_part

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
DEMO = Path(str(files("prefine.playground") / "demo.yaml"))
RESULTS = HERE / "results" / "arms.jsonl"
PROMPTS = 600
"""Test prompts of every trial, the same ones."""
SHARED = ("journal", "completions", "rankings")
LABELS = "labels.jsonl"
"""In the folder of what is common: the answers of its pairs, each with a label."""


@dataclass(frozen=True)
class Family:
    """Arms that differ in one thing.

    `about` says what they have in common, `settings` sets it over `config`. Where `stages` are
    named, these run once for each seed, and the arms begin with a copy of what they were answered.
    The first arm is what the others are compared with.
    """

    about: str
    config: Path
    settings: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    stages: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ("prompts", "sample", "rank", "rank.judge", "pair", "train")
    own_configs: Mapping[str, Path] = field(default_factory=dict)


def _listwise(loss: str) -> tuple[str, ...]:
    return ("pair.selector=lists", f"train.loss={loss}", "train.pairs_per_step=16")


def _self_play(reference: str, segment: str) -> tuple[str, ...]:
    return (
        f"train.step_source.reference={reference}",
        f"train.step_source.segment_tokens={segment}",
    )


_PAIRWISE = ("pair.selector=best_vs_random", "train.loss={name: dpo, beta: 0.1}")
FAMILIES = {
    "lists": Family(
        "512 prompts, 8 completions, every pair judged once; 96 steps of 128 completions, so "
        "that DPO sees its 512 pairs 12 times and a list loss its lists of 8 three times",
        DEMO,
        ("prompts.count=512", "rank.strategy=round_robin"),
        {
            "dpo, best against random": (*_PAIRWISE, "train.epochs=12"),
            "dpo, best against random, 24 steps": (*_PAIRWISE, "train.epochs=3"),
            "dpo on all pairs of a list": _listwise("{name: all_pairs, loss: {name: dpo}}"),
            "best_vs_rest": _listwise("{name: best_vs_rest, loss: {name: dpo}}"),
            "list_mle": _listwise("list_mle"),
            "list_net": _listwise("{name: list_net, labels: ranks}"),
            "lambda_rank": _listwise("{name: lambda_rank, labels: ranks}"),
            "neural_ndcg": _listwise("{name: neural_ndcg, labels: ranks}"),
            "approx_ndcg": _listwise("{name: approx_ndcg, labels: ranks}"),
        },
        ("sample", "rank"),
    ),
    "labels": Family(
        "1,024 prompts, 8 completions, every pair judged once, 48 steps of 128 answers",
        DEMO,
        ("rank.strategy=round_robin",),
        {
            "dpo on pairs": _PAIRWISE,
            "kto on the answers of the pairs": (
                *(f"{entry}=null" for entry in ("prompts", "sample", "rank")),
                f"labels={{name: file, path: {{common}}/{LABELS}}}",
                "train.loss=kto",
                "train.pairs_per_step=128",
            ),
            "kto on all answers, by the mean score": (
                "pair.selector=labelled",
                "train.loss=kto",
                "train.pairs_per_step=128",
                "train.max_steps=48",
            ),
        },
        ("sample", "rank", "pair"),
    ),
    "rounds": Family(
        "960 prompts in all, 8 completions and 7 judge calls for each, 45 steps in all",
        CONFIGS / "rounds.yaml",
        ("prompts.count=960",),
        {
            "one round of 960 prompts": ("rounds=null",),
            "three rounds of 320": ("rounds.count=3",),
            "two rounds of 480": ("rounds.count=2",),
        },
    ),
    "self_play": Family(
        "1,024 reference answers, 64 steps, segments of 8 tokens or whole answers",
        CONFIGS / "self-play.yaml",
        (),
        {
            f"reference {reference}, {what}": _self_play(reference, segment)
            for what, segment in (("segments", "8"), ("whole answers", "null"))
            for reference in ("fixed", "policy", "ema")
        },
        seeded=("labels", "pair", "train"),
    ),
}


def run_stage(
    what: str, folder: Path, family: Family, seed: int, settings: Sequence[str], config: Path
) -> None:
    """Run a stage, or all of them, in a folder."""
    unset = {one.removesuffix("=null") for one in settings if one.endswith("=null")}
    seeded = [place for place in family.seeded if place.split(".")[0] not in unset]
    words = [sys.executable, "-m", "prefine", what, str(config), "--run-dir", str(folder)]
    test = (f"evaluate.prompts.count={PROMPTS}", "evaluate.seed=0")
    for one in (*(f"{place}.seed={seed}" for place in seeded), *test, *family.settings, *settings):
        words += ["--set", one]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


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
    settings = [one.replace("{common}", str(common)) for one in family.arms[arm]]
    if (
        common is not None
        and "rank=null" not in settings
        and not (folder / "manifest.json").exists()
    ):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in SHARED:
            shutil.copytree(common / name, folder / name)
    run_stage("run", folder, family, seed, settings, family.own_configs.get(arm, family.config))
    rounds = sorted(folder.glob("round-*/")) or [folder]
    before, after = outcomes(rounds[0]), outcomes(rounds[-1])
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
                for stage in family.stages:
                    run_stage(stage, common, family, seed, _PAIRWISE, family.config)
                if "pair" in family.stages:
                    unpair(common)
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
