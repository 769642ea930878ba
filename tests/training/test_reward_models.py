"""Reward models through the command: trained on pairs and lists, saved as the judge reads them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from command import prefine, start
from prefine.models.hf.reward import RewardModel
from prefine.models.protocol import Answered
from prefine.records import Completion, Message, Prompt
from run_place import GONE, OK, PAIRS, Place, jsonl

REWARD: dict[str, Any] = {
    "train.loss": GONE,
    "train.regularizer": GONE,
    "train.reward": {"loss": "bradley_terry"},
    "train.epochs": 6,
    "train.max_steps": None,
    "train.evaluate_every": 6,
    "train.learning_rate": 1e-2,
}
LISTS = {
    "completions": GONE,
    "rank": GONE,
    "lists": {"name": "file", "path": "lists.jsonl"},
    "train.reward": {"loss": {"name": "plackett_luce", "center": 0.01}},
}
LORA = {"train.adapter": {"name": "lora", "rank": 4}}


def rows(name: str, run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, name).read_text().splitlines()]


def good_lists() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "completions": [{"text": f"answer {n} {m}", "score": m / 2} for m in range(2 + n % 3)],
        }
        for n in range(6)
    ]


def pairs() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {n}",
            "chosen": f"a good answer {n}",
            "rejected": f"a bad one {n}",
            "score_gap": 1 + n % 2,
        }
        for n in range(12)
    ]


@pytest.fixture
def items(place: Place) -> Place:
    place.put("pairs.jsonl", jsonl(pairs()))
    place.put("lists.jsonl", jsonl(good_lists()))
    place.change({**REWARD, **PAIRS, "pair.held_out_prompts": 4})
    return place


def scores(texts: list[tuple[str, str]], path: str = "run/model") -> list[float]:
    """Rewards as the judge reads them from the folder."""
    judge = RewardModel(path=path, dtype="auto", device="cpu", batch_size=3, max_tokens=None)
    judge.check_model()
    answered = [
        Answered(
            Prompt.from_text(prompt),
            Completion(
                id=str(n),
                prompt_id="p",
                sample_index=n,
                message=Message(role="assistant", content=text),
            ),
        )
        for n, (prompt, text) in enumerate(texts)
    ]
    found = judge.scores(answered)
    assert all(isinstance(one, float) for one in found)
    return [float(str(one)) for one in found]


@pytest.mark.parametrize("saved", ["whole", "adapter", "merged"])
def test_the_judge_gives_the_rewards_of_training(items: Place, saved: str) -> None:
    """All training pairs by the folder: the mean margin and the loss that training wrote."""
    if saved != "whole":
        items.change({"train.adapter": {"name": "lora", "rank": 4, "save": saved}})
    items.change({"train.reward": {"loss": {"name": "bradley_terry", "margin": 0.1}}})
    assert prefine("run", "run.yaml", "--dry-run").code == OK
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    from prefine.run.view import RunView

    trained = list(RunView(Path("run")).pairs())
    texts = [(p.prompt.text, side.text) for p in trained for side in (p.chosen, p.rejected)]
    found = torch.tensor(scores(texts), dtype=torch.float64).view(-1, 2)
    final = json.loads(Path("run/train_final.json").read_text())["final"]
    margin = found[:, 0] - found[:, 1]
    assert final["pairs"] == len(trained) == 8
    assert final["margin"] == pytest.approx(float(margin.mean()), abs=1e-4)
    assert final["reward"] == pytest.approx(float(found.mean()), abs=1e-4)
    assert final["brier"] == pytest.approx(float((1 - margin.sigmoid()).square().mean()), abs=1e-4)
    first, *_, last = rows("train_log.jsonl")
    assert last["loss"] < first["loss"] and first["tokens"] == 4
    evaluated = rows("eval_log.jsonl")
    assert [row["step"] for row in evaluated] == [0, 6, 12, 18, 24]
    assert {"accuracy", "brier", "calibration_error", "accuracy_se"} <= evaluated[-1].keys()
    # The stage `evaluate` asks the judge itself.
    metrics = {one["name"]: one for one in json.loads(Path("run/metrics.json").read_text())["metrics"]}
    held_out = evaluated[-1]
    assert metrics["reward_accuracy"]["value"] == pytest.approx(100 * held_out["accuracy"])
    assert metrics["brier_score"]["value"] == pytest.approx(held_out["brier"], abs=1e-4)
    found_error = metrics["expected_calibration_error"]["value"]
    assert found_error == pytest.approx(100 * held_out["calibration_error"], abs=1e-2)
    page = Path("run/report.html").read_text()
    assert "A reward model, trained on pairs." in page and "Brier score" in page
    for policy in ("Win rate", "log-ratio", "before and after training", "against <b>"):
        assert policy not in page
    assert "reward accuracy" in result.out and "brier score" in result.out
    card = Path("run/model/README.md").read_text()
    assert "AutoModelForSequenceClassification" in card and "bradley_terry" in card


def test_lists_train_a_judge_of_another_run(items: Place) -> None:
    items.change({**LISTS, **LORA, "pairs": GONE})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert "Trained on" not in Path("run/report.html").read_text()
    metrics = json.loads(Path("run/metrics.json").read_text())["metrics"]
    assert metrics[0]["name"] == "reward_ranking_accuracy"
    items.change({"lists": GONE, "completions": {"name": "file", "path": "answers.jsonl"}})
    items.change({"rank": {"judge": {"name": "reward", "path": "run/model"}}})
    assert prefine("sample", "run.yaml", "--run-dir", "other").code == OK
    ranked = prefine("rank", "run.yaml", "--run-dir", "other")
    assert ranked.code == OK, ranked.err


def contents(folder: str) -> dict[str, bytes]:
    logs = [Path(folder, f"{name}_log.jsonl") for name in ("train", "eval")]
    paths = [*Path(folder, "model").iterdir(), *logs, Path(folder, "train_final.json")]
    return {path.name: path.read_bytes() for path in paths}


SLOW = """
import time
from prefine.losses.protocol import declare
from prefine.losses.rewards.bradley_terry import bradley_terry

@declare(reads="rewards")
def slow(rewards):
    time.sleep(0.02)
    return bradley_terry(rewards)
"""


def test_a_killed_training_goes_on_to_the_same_bytes(items: Place) -> None:
    items.put("slow_losses.py", SLOW)
    items.change({**LORA, "train.reward": {"loss": "slow_losses:slow"}})
    items.change({"train.checkpoint_every": 5})
    for folder in ("run", "whole"):
        assert prefine("pair", "run.yaml", "--run-dir", folder).code == OK
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == OK
    log = Path("run/train_log.jsonl")
    for moment in (3, 12):
        process = start("train", "run.yaml")
        end = time.monotonic() + 120
        while not log.exists() or log.read_bytes().count(b"\n") < moment:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "the step never came"
            time.sleep(0.002)
        process.kill()
        process.communicate()
    result = prefine("train", "run.yaml")
    assert result.code == OK, result.err
    assert contents("run") == contents("whole")
