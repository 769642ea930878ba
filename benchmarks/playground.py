"""Runs of the demo: several seeds, the control, no regularizer, a length-biased judge.

    python benchmarks/playground.py [--out DIR] [--seeds 3]

Every run is the real command in its own process. Prints one row for each claim, failures included,
and writes `results.json` into the output folder.
"""

import argparse
import json
import random
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from prefine.judges.playground import PlaygroundJudge
from prefine.playground.world import gold
from prefine.run.rows import grouped_completions
from prefine.run.tables import parts, read_part

DEMO = str(files("prefine.playground") / "demo.yaml")
HACKING = str(Path(__file__).parent.parent / "configs" / "hacking.yaml")
SEEDED = (
    "prompts",
    "sample",
    "rank",
    "rank.judge",
    "pair",
    "train",
    "evaluate",
    "evaluate.prompts",
)


def run(config: str, folder: Path, *overrides: str) -> dict[str, Any]:
    """Run the command in its own process; return its result with the rows of its training log."""
    command = [sys.executable, "-m", "prefine", "run", config, "--run-dir", str(folder), "--json"]
    for override in overrides:
        command += ["--set", override]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(printed)
    result["log"] = [
        json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()
    ]
    result["judge"] = json.loads((folder / "config.json").read_text())["config"]["rank"]["judge"]
    return result


def judge_accuracy(folder: Path, settings: dict[str, Any], pairs: int = 4000) -> float:
    """Return the accuracy of the training judge on random pairs of a run's completions [%].

    Pairs are shown in random order; pairs of equal gold are left out.
    """
    judge = PlaygroundJudge(**{name: value for name, value in settings.items() if name != "name"})
    groups = [
        group
        for path in parts(folder / "completions")
        for group in grouped_completions(read_part(path))
    ]
    rng = random.Random(0)
    right = asked = 0
    while asked < pairs:
        prompt, completions = rng.choice(groups)
        first, second = rng.sample(completions, 2)
        gap = gold(prompt.text, first.text) - gold(prompt.text, second.text)
        p_first = judge.compare(prompt, first, second).p_first
        if abs(gap) > 1e-9 and p_first is not None:
            asked += 1
            right += (p_first > 0.5) == (gap > 0)
    return 100 * right / asked


def half_way_fall(run_log: list[dict[str, Any]], margin: float) -> float | None:
    """The fall at the first step whose margin reaches `margin`."""
    return next((row["fall"] for row in run_log if row["margin"] >= margin), None)


def row(what: str, figure: str, ok: bool) -> None:
    """Print one row."""
    print(f"{'ok  ' if ok else 'MISS'} {what:<52} {figure}", flush=True)


def contest(result: dict[str, Any], role: str) -> dict[str, Any]:
    """The win rate in the eyes of the judge or of gold."""
    found: dict[str, Any] = next(c["win_rate"] for c in result["contests"] if c["role"] == role)
    return found


def shown(rate: dict[str, Any]) -> str:
    """A win rate with its interval."""
    low, high = rate["interval"]
    return f"{rate['value']:.1f} % [{low:.1f}, {high:.1f}]"


def show_seed(name: str, result: dict[str, Any]) -> None:
    """The rows about one seed of the demo."""
    rate = contest(result, "gold")
    row(
        f"{name}: gold win rate, 300 unseen prompts",
        shown(rate),
        rate["value"] >= 70 and rate["interval"][0] > 50,
    )
    worst = min((c["change"] for c in result["constraints"]), key=lambda change: change["value"])
    low, high = worst["interval"]
    row(
        f"{name}: constraint that changed worst",
        f"{worst['name'].removesuffix('_change')} {worst['value']:+.3f} [{low:+.3f}, {high:+.3f}]",
        high >= 0,
    )
    lengths = {metric["name"]: metric["value"] for metric in result["metrics"]}
    change = 100 * (lengths["mean_length_after"] / lengths["mean_length_before"] - 1)
    row(f"{name}: mean answer length", f"{change:+.1f} %", abs(change) < 15)
    row(
        f"{name}: seconds from prompts to report",
        f"{result['seconds']:.0f}",
        result["seconds"] <= 180,
    )
    limit = 1.1 * result["delta"] + result["chosen_fall_standard_error"]
    fall = f"{result['chosen_fall']:.2f} nats, delta {result['delta']:g}, limit {limit:.2f}"
    row(f"{name}: fall of the chosen answers", fall, result["chosen_fall"] <= limit)


def main() -> None:
    """Run everything and print one row for each claim."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-playground"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for seed in range(options.seeds):
        name = f"seed-{seed}"
        results[name] = run(DEMO, options.out / name, *(f"{place}.seed={seed}" for place in SEEDED))
        accuracy = judge_accuracy(options.out / name, results[name]["judge"])
        row(f"{name}: judge right on random pairs", f"{accuracy:.1f} %", 75 <= accuracy <= 80)
        show_seed(name, results[name])

    results["control"] = run(DEMO, options.out / "control", "pair.labels=shuffled")
    rate = contest(results["control"], "gold")
    row("control: chosen and rejected shuffled", shown(rate), 45 <= rate["value"] <= 55)

    budget, plain = (
        results["seed-0"],
        run(DEMO, options.out / "plain", "train.regularizer_weight=0"),
    )
    results["plain"] = plain
    delta = budget["delta"]
    row(
        "without regularizer: fall",
        f"{plain['chosen_fall']:.2f} nats, 2 delta {2 * delta:g}",
        plain["chosen_fall"] >= 2 * delta,
    )
    row("without regularizer: gold win rate", shown(contest(plain, "gold")), True)
    half = plain["log"][-1]["margin"] / 2
    falls = [half_way_fall(result["log"], half) for result in (budget, plain)]
    figure = f"margin {half:.2f}: budget {falls[0]}, plain {falls[1]} nats"
    row(
        "fall at the plain run's half-way margin", figure, None not in falls and falls[0] < falls[1]
    )

    hacking = results["hacking"] = run(HACKING, options.out / "hacking")
    judged, true = contest(hacking, "judge"), contest(hacking, "gold")
    row("biased judge: its win rate", shown(judged), judged["interval"][0] > 50)
    row("biased judge: gold win rate", shown(true), true["interval"][0] <= 50)
    said = "judge is being exploited" in Path(hacking["report"]).read_text()
    row("biased judge: the report says so", str(said), said)
    (options.out / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
