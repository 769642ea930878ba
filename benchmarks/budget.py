"""The automatic budget on the playground: does it hold on unseen answers, and at what cost in gold?

    python benchmarks/budget.py run [--out DIR] [--plan levers,tuned,…] [--minutes N]
    python benchmarks/budget.py show

`run` makes what all trials share (completions, rankings and pairs of each seed; a third set of
fresh pairs), then trains trial after trial with the settings of the demo. Each finished trial is a
line of `results/budget.jsonl`; those that are there are not run again. The parts of the plan are
levers, tuned (weights by hand), losses, deltas, constant (rate) and auto (`delta: auto` beside
fixed ones). The product's default anchor goes first in all of them. `show` prints the tables.
A trial trains through `prefine.training.loop.train`; the third set and the test prompts are read by
nothing else.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from budget_tables import show
from prefine import sample
from prefine.config.sections import RunConfig
from prefine.config.yaml import load
from prefine.models.hf.loading import load_model
from prefine.models.playground import playground, playground_folder
from prefine.playground.world import draw_prompts, gold
from prefine.records import Message, Prompt
from prefine.stages.anchors import read_anchors
from prefine.stages.budget import automatic_budget
from prefine.stages.training_inputs import read_held_out, read_items
from prefine.training.loop import train
from prefine.training.reference.prepare import forward_of
from prefine.training.reference.scoring import score_completions
from prefine.training.relations.pairs import CHOSEN, REJECTED

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "budget.jsonl"
DEMO = HERE.parent / "src" / "prefine" / "playground" / "demo.yaml"
HELD_OUT, THIRD, TEST = 128, 1150, 400
TUNED = TEST + 1500
"""Test prompts where a weight is tuned by hand: the first `TEST` choose it, the others compare."""
ON_THE_WAY = 256
"""Pairs of the third set that are measured ten times during a training, for its peak."""
DEFAULT = '{"chosen": 1, "better": 1}'
"""What `anchor: auto` pulls at where completions were ranked."""
LEVERS = (DEFAULT, "chosen", "better", "unused")
SEEDED = ("prompts", "sample", "rank", "rank.judge", "pair", "train")


@dataclass(frozen=True)
class Trial:
    """One training; `lever` is none, hinge, nll, or an anchor of the automatic budget."""

    lever: str
    delta: float | Literal["auto"] | None = None
    weight: float | None = None
    epochs: int = 3
    seed: int = 0
    loss: str = "dpo"
    options: str = '{"beta": 0.1}'
    schedule: str = "linear"
    test: int = TEST

    @property
    def settings(self) -> dict[str, Any]:
        """The section `train`."""
        found: dict[str, Any] = {
            "loss": {"name": self.loss, **json.loads(self.options)},
            "pairs_per_step": 64,
            "epochs": self.epochs,
            "learning_rate": 6e-4,
            "schedule": self.schedule,
            "seed": self.seed,
        }
        if self.lever == "hinge":
            found["regularizer"] = {"name": "budget", "delta": self.delta}
            found["regularizer_weight"] = self.weight
        elif self.lever == "nll":
            found["regularizer"] = {"name": "nll"}
            found["regularizer_weight"] = self.weight
        elif self.lever != "none":
            anchor = json.loads(self.lever) if self.lever.startswith("{") else self.lever
            found["regularizer"] = {"name": "budget", "delta": self.delta, "anchor": anchor}
            found["regularizer_weight"] = "auto"
        return found


def plan(names: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """The trials of some parts of the plan: the default lever first, and what it is held against.

    The parts losses and constant take three seeds, as one seed more would cost as much as a delta.
    """
    trials = dict.fromkeys(trial for name in names for trial in PARTS[name](seeds))
    return sorted(trials, key=lambda trial: trial.lever not in (DEFAULT, "none"))


def _levers(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds:
        for epochs in (3, 10):
            yield Trial("none", epochs=epochs, seed=seed)
            yield from (Trial(one, 3.0, epochs=epochs, seed=seed) for one in LEVERS)


def _deltas(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds:
        for epochs in (3, 10):
            for delta in (1.5, 6.0):
                yield from (Trial(one, delta, epochs=epochs, seed=seed) for one in LEVERS)


def _losses(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds[:3]:
        for loss, options in (
            ("dpo", '{"beta": 0.01}'),
            ("dpo", '{"beta": 0.5}'),
            ("simpo", "{}"),
            ("ipo", "{}"),
        ):
            yield Trial("none", seed=seed, loss=loss, options=options)
            yield from (Trial(one, 3.0, seed=seed, loss=loss, options=options) for one in LEVERS)


def _constant(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds[:3]:
        for lever, delta in (("none", None), *((one, 3.0) for one in LEVERS)):
            yield Trial(lever, delta, epochs=10, seed=seed, schedule="constant")


def _tuned(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds:
        yield from (Trial(one, 3.0, seed=seed, test=TUNED) for one in (DEFAULT, "chosen"))
        for weight in (0.01, 0.03, 0.1, 0.3):
            yield Trial("hinge", 3.0, weight, seed=seed, test=TUNED)
        for weight in (0.003, 0.01, 0.03, 0.1):
            yield Trial("nll", None, weight, seed=seed, test=TUNED)


def _auto(seeds: Sequence[int]) -> Iterator[Trial]:
    for seed in seeds:
        yield from (Trial(DEFAULT, delta, seed=seed) for delta in ("auto", 1.5, 3.0, 6.0))


PARTS = {
    "levers": _levers,
    "tuned": _tuned,
    "losses": _losses,
    "deltas": _deltas,
    "constant": _constant,
    "auto": _auto,
}


def prepared(folder: Path, *, held_out: int, seed: int, **prompts: Any) -> Path:
    """Sample, rank and pair in a folder, with the demo's settings; what is done stays."""
    chosen = [f"{place}.seed={seed}" for place in SEEDED]
    chosen += [f"prompts.{name}={value}" for name, value in prompts.items()]
    for stage in ("sample", "rank", "pair"):
        command = [sys.executable, "-m", "prefine", stage, str(DEMO), "--run-dir", str(folder)]
        for one in [*chosen, f"pair.held_out_prompts={held_out}"]:
            command += ["--set", one]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


class ThirdSet:
    """Fresh pairs that no trial reads, with their values under the initial policy."""

    def __init__(self, folder: Path, config: RunConfig, *, most: int | None = None) -> None:
        policy = playground()
        self.items = read_items(folder / "pairs", policy, config).items[:most]
        model = load_model(str(playground_folder()), dtype="float32", device=policy.device)
        self.initial = self._scores(model, config)

    def _scores(self, model: Any, config: RunConfig) -> torch.Tensor:
        forward, _ = forward_of(model, self.items, config.train)
        return score_completions(forward, self.items).double()

    def measure(self, model: Any, config: RunConfig) -> dict[str, float]:
        """The fall of the chosen answers with its error, and the share of positive margins."""
        change = self._scores(model, config) - self.initial
        fall, margin = -change[CHOSEN], change[CHOSEN] - change[REJECTED]
        return {
            "third": float(fall.mean()),
            "third_se": float(fall.std()) / math.sqrt(len(fall)),
            "accuracy": float((margin > 0).double().mean()),
        }


def answers(model: Any, count: int) -> dict[str, float]:
    """Gold of one answer to each of the first test prompts, by prompt."""
    prompts = draw_prompts(count, split="test", seed=0)
    drawn = sample(model, prompts, completions_per_prompt=1, temperature=1.0, max_new_tokens=80)
    by_id = {one.prompt_id: one for one in drawn}
    found = {}
    for text in prompts:
        prompt = Prompt.make((Message(role="user", content=text),))
        found[text] = gold(text, by_id[prompt.id].text)
    return found


def run(
    trial: Trial, out: Path, third: ThirdSet, some: ThirdSet, baseline: dict[str, float]
) -> dict[str, Any]:
    """Train, and measure what training did."""
    base = out / f"base-{trial.seed}"
    config = load(DEMO).model_copy(update={"run_dir": base})
    raw = config.model_dump(mode="json")
    config = RunConfig.model_validate(raw | {"run_dir": base, "train": trial.settings})
    policy = playground()
    examples = read_items(base / "pairs", policy, config).items
    held_out = read_held_out(config, policy).items
    budget = automatic_budget(config)
    extra: dict[str, Any] = {}
    if budget is not None:
        anchors = read_anchors(config, policy, budget, examples=examples, held_out=held_out)
        extra = {"automatic": budget, "anchors": anchors}
    folder = out / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    model = load_model(str(playground_folder()), dtype="float32", device=policy.device)
    steps = math.ceil(len(examples) / 64) * trial.epochs
    falls: list[float] = []

    def on_step(row: Any) -> None:
        if row.step * 10 // steps > (row.step - 1) * 10 // steps:
            falls.append(some.measure(model, config)["third"])

    began = time.monotonic()
    settings, regularizer = config.train, None
    if settings.fixed_regularizer is not None:
        regularizer = settings.fixed_regularizer.resolve("regularizer", where="train.regularizer")
    summary = train(
        model,
        examples,
        settings,
        loss=settings.loss.resolve("loss", where="train.loss"),
        regularizer=regularizer,
        out_dir=folder,
        run_key="benchmark",
        reference_dir=out / "reference",
        held_out=held_out,
        on_step=on_step,
        **extra,
    )
    figures: dict[str, Any] = third.measure(model, config)
    figures |= {"training": summary.final.fall, "peak": max(falls), "falls": falls}  # type: ignore[attr-defined]
    climb = folder / "climb_log.jsonl"
    if climb.is_file():
        looks = [json.loads(line) for line in climb.read_text().splitlines()]
        figures |= {
            "looks": [[row["delta"], row["fall"], row["quality"]] for row in looks],
            "kept_step": looks[-1]["top_step"],
            "kept_delta": looks[-1]["next_delta"],
        }
    log = folder / "budget_log.jsonl"
    if log.is_file():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        figures |= {
            "probe": rows[-1]["fall"],
            "weight": rows[-1]["regularizer_weight"],
            "slope": rows[-1]["slope"],
            "largest": max(row["regularizer_weight"] for row in rows),
            "infeasible": sum(row["infeasible"] for row in rows),
        }
    figures["seconds"] = round(time.monotonic() - began, 1)
    model.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    trained = {"name": "hf", "path": str(folder / "model"), "dtype": "float32"}
    after = answers(trained, trial.test)
    wins = [(after[text] > baseline[text]) + (after[text] == baseline[text]) / 2 for text in after]
    mean = sum(wins) / len(wins)
    figures["gold"] = 100 * mean
    figures["gold_se"] = 100 * math.sqrt(
        sum((win - mean) ** 2 for win in wins) / (len(wins) - 1) / len(wins)
    )
    figures["wins"] = "".join("012"[round(2 * win)] for win in wins)
    return figures


def main() -> None:
    """Run what is missing, or show what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-budget"))
    parser.add_argument("--plan", default=",".join(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=math.inf)
    options = parser.parse_args()
    if options.what == "show":
        show(RESULTS)
        return
    torch.set_num_threads(1)
    began = time.monotonic()
    third_folder = prepared(options.out / "third", held_out=0, seed=9, count=THIRD, split="test")
    third = ThirdSet(third_folder, load(DEMO))
    some = ThirdSet(third_folder, load(DEMO), most=ON_THE_WAY)
    baseline = answers("playground", TUNED)
    lines = RESULTS.read_text().splitlines() if RESULTS.is_file() else []
    done = {Trial(**json.loads(line)["trial"]) for line in lines}
    for trial in plan(options.plan.split(","), range(options.seeds)):
        if trial in done:
            continue
        if time.monotonic() - began > 60 * options.minutes:
            break
        prepared(options.out / f"base-{trial.seed}", held_out=HELD_OUT, seed=trial.seed)
        found = {"trial": asdict(trial), **run(trial, options.out, third, some, baseline)}
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        brief = {name: found[name] for name in found if name not in ("wins", "falls", "looks")}
        print(json.dumps(brief), flush=True)


if __name__ == "__main__":
    main()
