"""Reward models: held-out accuracy and calibration, on the playground and on human verdicts.

    python benchmarks/reward_models.py playground [--out DIR] [--seeds 3]
    python benchmarks/reward_models.py qa_feedback --model FOLDER [--data FILE] [--out DIR]

Every run is the real command in its own process and goes on where it was stopped. Prints one row
for each figure, whatever it is. On the playground, gold says which of two answers is better, so
that the reward model stands beside the judge that it was fitted to, on the same random pairs of
answers to prompts that were held out.

`qa_feedback` is the development set of FineGrainedRLHF, four answers to a question with six human
verdicts; `--data` or the environment variable PREFINE_TEST_DATA says where it is. FOLDER is a
causal language model of Hugging Face with a chat template.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from line import Line
from prefine.calls.protocol import Failure
from prefine.judges.playground import PlaygroundJudge
from prefine.metrics.judges.calibration import brier_score, expected_calibration_error
from prefine.metrics.rewards.accuracy import reward_accuracy
from prefine.metrics.statistics.intervals import mean_value
from prefine.models.hf.reward import RewardModel
from prefine.models.protocol import Answered
from prefine.playground.world import gold
from prefine.records import MetricValue
from prefine.run.rows import grouped_completions
from prefine.run.tables import parts, read_part
from prefine.run.view import RunView

PAIRS, HELD_OUT, COMPARED = 1024, 256, 4000
JUDGE = {"name": "playground", "accuracy": 0.78, "first_slot_bias": 0.5}


def playground_config(folder: Path, seed: int) -> dict[str, Any]:
    """One pair for each of 1,024 prompts, and 256 prompts held out."""
    return {
        "run_dir": str(folder),
        "policy": {"name": "playground"},
        "prompts": {
            "name": "playground",
            "count": PAIRS + HELD_OUT,
            "split": "train",
            "seed": seed,
        },
        "sample": {
            "completions_per_prompt": 8,
            "temperature": 1.0,
            "max_new_tokens": 80,
            "seed": seed,
        },
        "rank": {"strategy": {"name": "iterative", "order": "lazy"}, "judge": JUDGE, "seed": seed},
        "pair": {"held_out_prompts": HELD_OUT, "seed": seed},
        "train": {
            "reward": {"loss": "bradley_terry"},
            "pairs_per_step": 64,
            "epochs": 2,
            "learning_rate": 1e-3,
            "schedule": "linear",
            "evaluate_every": 16,
            "seed": seed,
        },
        "report": {"title": "A reward model on the playground"},
    }


def run(config: dict[str, Any]) -> dict[str, Any]:
    """Run the command in its own process; return its result."""
    file = Path(f"{config['run_dir']}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "prefine", "run", str(file), "--json"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(printed)
    return result


def show(what: str, figure: MetricValue, digits: int = 1) -> None:
    """Print a figure with its interval."""
    low, high = figure.interval or (float("nan"), float("nan"))
    text = f"{figure.value:.{digits}f} {figure.unit}".rstrip()
    print(Line(what, f"{text} [{low:.{digits}f}, {high:.{digits}f}]  n={figure.n}"), flush=True)


def show_metrics(name: str, result: dict[str, Any]) -> None:
    """Print what the run says of its held-out pairs."""
    for metric in map(MetricValue.model_validate, result["metrics"]):
        digits = 3 if metric.name == "brier_score" else 1
        show(f"{name}: held-out pairs, {metric.name.replace('_', ' ')}", metric, digits)


def against_gold(name: str, folder: Path, seed: int) -> None:
    """Compare reward model and judge on the same random pairs of held-out prompts' answers."""
    held_out = {pair.prompt.id for pair in RunView(folder).pairs("heldout_pairs")}
    groups = [
        group
        for path in parts(folder / "completions")
        for group in grouped_completions(read_part(path))
        if group[0].id in held_out
    ]
    judge = PlaygroundJudge(**{key: value for key, value in JUDGE.items() if key != "name"})
    model = RewardModel(
        path=str(folder / "model"), dtype="auto", device="cpu", batch_size=64, max_tokens=None
    )
    answers = [Answered(prompt, one) for prompt, completions in groups for one in completions]
    rewards: dict[str, float] = {}
    for start in range(0, len(answers), 64):
        some = answers[start : start + 64]
        for answer, reward in zip(some, model.scores(some), strict=True):
            assert not isinstance(reward, Failure), reward
            rewards[answer.completion.id] = reward
    rng = random.Random(seed)
    p_model, p_judge, truth, ids = [], [], [], []
    while len(ids) < COMPARED:
        prompt, completions = rng.choice(groups)
        first, second = rng.sample(completions, 2)
        gap = gold(prompt.text, first.text) - gold(prompt.text, second.text)
        said = judge.compare(prompt, first, second).p_first
        if abs(gap) > 1e-9 and said is not None:
            margin = rewards[first.id] - rewards[second.id]
            p_model.append(0.5 + 0.5 * float(np.tanh(margin / 2)))
            p_judge.append(said)
            truth.append(float(gap > 0))
            ids.append(prompt.id)
    sign = 2 * np.array(truth) - 1
    right = {}
    for who, p in (("reward model", np.array(p_model)), ("judge", np.array(p_judge))):
        right[who] = (np.sign(sign * (p - 0.5)) + 1) / 2
        show(f"{name}: {who} right by gold", reward_accuracy(sign * (p - 0.5), ids))
        show(f"{name}: {who}, Brier score by gold", brier_score(p, truth, prompt_ids=ids), 3)
        calibration = expected_calibration_error(p, truth, prompt_ids=ids)
        show(f"{name}: {who}, expected calibration error", calibration)
    apart = 100 * (right["reward model"] - right["judge"])
    difference = mean_value("difference", apart, unit="points", groups=ids)
    show(f"{name}: reward model minus judge, right by gold", difference)


def playground(out: Path, seeds: int) -> None:
    """The rows of the playground."""
    for seed in range(seeds):
        name, folder = f"seed {seed}", out / f"playground-{seed}"
        result = run(playground_config(folder, seed))
        show_metrics(name, result)
        against_gold(name, folder, seed)


def qa_feedback(out: Path, model: str, data: str) -> None:
    """The rows of human verdicts: one epoch of an adapter on 200 questions."""
    folder = out / "qa_feedback"
    began = time.monotonic()
    config = {
        "run_dir": str(folder),
        "policy": {"name": "hf", "path": model},
        "completions": {"name": "file", "path": data, "limit": 250},
        "rank": {"strategy": {"name": "round_robin"}, "judge": {"name": "recorded"}},
        "pair": {"selector": {"name": "lists"}, "held_out_prompts": 50},
        "train": {
            "reward": {"loss": "bradley_terry"},
            "adapter": {"name": "lora", "rank": 8},
            "pairs_per_step": 8,
            "dtype": "bfloat16",
            "epochs": 1,
            "learning_rate": 2e-4,
            "schedule": "linear",
            "checkpoint_every": 5,
        },
        "report": {"title": "A reward model of human verdicts"},
    }
    result = run(config)
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    lists = sum(row["lists"] for row in steps)
    print(Line("qa_feedback: questions trained on, 4 answers each", f"{lists:,}"), flush=True)
    show_metrics("qa_feedback", result)
    seconds = sum(one.wall_time_s for one in RunView(folder).manifests().values() if one.complete)
    figure = f"{seconds / 60:.1f} (this call {(time.monotonic() - began) / 60:.1f})"
    print(Line("qa_feedback: minutes of all stages", figure, seconds <= 45 * 60), flush=True)


def main() -> None:
    """Run a part and print its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["playground", "qa_feedback"])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-reward-models"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--data")
    options = parser.parse_args()
    if options.part == "playground":
        playground(options.out, options.seeds)
        return
    data = options.data
    if data is None:
        data = str(Path(os.environ.get("PREFINE_TEST_DATA", ".")) / "qa_feedback" / "dev.jsonl")
    qa_feedback(options.out, options.model, data)


if __name__ == "__main__":
    main()
