"""Pairs, lists and labelled answers in one training, through the command."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from test_items_pipeline import QUIET, REPLAY, contents, good_labels, good_lists, rows

from command import prefine, start
from other_tokens import save_with_other_tokens
from prefine.run.view import RunView
from run_place import CONFIG, GONE, OK, Place, jsonl

LOSSES = {"pairs": "dpo", "lists": "list_mle", "labels": {"name": "kto", "z0": 0.1}}
MIXED: dict[str, Any] = {
    **QUIET,
    "pairs": {"name": "file", "path": "pairs.jsonl", "weight": 2},
    "lists": "lists.jsonl",
    "labels": {"name": "file", "path": "labels.jsonl", "weight": 1.0},
    "train.loss": LOSSES,
    "train.pairs_per_step": 4,
    "train.max_steps": 4,
    "train.epochs": 9,
    "pair.held_out_prompts": 2,
}


def good_pairs() -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {n}", "chosen": f"right {n}", "rejected": f"wrong {n}"}
        for n in range(8)
    ]


@pytest.fixture
def items(place: Place) -> Place:
    place.put("pairs.jsonl", jsonl(good_pairs()))
    place.put("lists.jsonl", jsonl(good_lists()))
    place.put("labels.jsonl", jsonl(good_labels()))
    place.change(MIXED)
    return place


def test_three_kinds_are_trained_on_evaluated_and_reported(items: Place) -> None:
    items.change({"train.evaluate_every": 2})
    items.change({"train.regularizer": {"name": "budget", "delta": 1.0}})
    planned = prefine("run", "run.yaml", "--dry-run")
    assert planned.code == OK, planned.err
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    log = rows("train_log.jsonl")
    assert [row["items"] for row in log] == [4] * 4
    first = log[0]["kinds"]
    assert [first[kind][kind] for kind in ("pairs", "lists", "labels")] == [2, 1, 1]
    mean = sum(n * first[kind]["loss"] for kind, n in (("pairs", 2), ("lists", 1), ("labels", 1)))
    assert log[0]["loss"] == pytest.approx(mean / 4, rel=1e-6)
    held_out = rows("eval_log.jsonl")
    assert [row["step"] for row in held_out] == [0, 2, 4]
    assert held_out[-1]["kinds"]["lists"]["lists"] == 2
    assert held_out[-1]["kinds"]["pairs"]["fall_se"] is not None
    roles = [one.role for one in RunView(Path("run")).token_logps()]
    assert {"chosen", "rejected", "completion 1", "completion 2", "completion"} <= {*roles}
    metrics = {one["name"] for one in json.loads(Path("run/metrics.json").read_text())["metrics"]}
    assert {"reward_accuracy", "reward_ranking_accuracy", "label_accuracy"} <= metrics
    page = Path("run/report.html").read_text()
    assert "Trained on pairs, lists and labels." in page
    assert "Lists: Ranking accuracy: comparisons of a list" in page
    card = Path("run/model/README.md").read_text()
    assert "lists: ranking accuracy (share of a list" in card and "pairs: margin" in card
    assert card.count("The budget of 1 nats is") == 3


def test_references_and_answers_to_other_prompts_stay_within_a_kind(items: Place) -> None:
    """Several references of the pairs, and z0 of the labels, beside lists of one reference."""
    save_with_other_tokens(items.root / "model", items.root / "other", apart=True)
    items.change(
        {
            "train.reference": ["initial", "./other"],
            "train.loss.pairs": {"name": "mrpo", "weights": "held_out"},
            "train.loss.labels": {"name": "kto", "z0": 0},
        }
    )
    assert prefine("run", "run.yaml").code == OK
    plain = rows("train_log.jsonl")
    # The first reference is the policy, so that only the second one moves a loss from its start.
    assert abs(plain[0]["kinds"]["pairs"]["loss"] - math.log(2)) > 1e-4
    assert plain[0]["kinds"]["labels"]["loss"] == pytest.approx(0.5, abs=1e-6)
    items.change({"train.loss.labels": {"name": "kto", "z0": "mismatched"}, "run_dir": "again"})
    items.change({"train.reference": "./other", "train.loss.pairs": "dpo"})
    refused = prefine("run", "run.yaml")
    assert refused.code == CONFIG and "reads log-ratios of answers to other prompts" in refused.err
    items.change({"train.reference": "initial"})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    log = [json.loads(line) for line in Path("again/train_log.jsonl").read_text().splitlines()]
    assert log[0]["kinds"]["labels"]["loss"] == pytest.approx(0.5, abs=1e-6)
    assert len(log) == 4


SLOW = """
import time
from prefine.losses import dpo
from prefine.losses.protocol import declare

@declare(needs=frozenset({"reference"}))
def slow(logps):
    time.sleep(0.02)
    return dpo(logps)
"""


def test_a_killed_training_on_three_kinds_goes_on_to_the_same_bytes(items: Place) -> None:
    items.put("slow_loss.py", SLOW)
    items.change({"train.loss": {**LOSSES, "pairs": "slow_loss:slow"}, "train.max_steps": 12})
    items.change({"train.checkpoint_every": 3})
    for folder in ("run", "whole"):
        assert prefine("pair", "run.yaml", "--run-dir", folder).code == OK
    assert prefine("train", "run.yaml", "--run-dir", "whole").code == OK
    log = Path("run/train_log.jsonl")
    for moment in (2, 8):
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train.loss": "dpo"},
            "train.loss: pairs, lists and labels are trained on together, and each kind needs "
            "its own loss (got 'dpo'); write loss: {pairs: dpo, lists: list_mle, labels: kto}",
        ),
        (
            {"train.loss": {**LOSSES, "pairs": "list_mle"}},
            "train.loss.pairs.name: 'list_mle' reads lists; choose one that reads pairs: dpo, ",
        ),
        ({"train.loss": {"pairs": "dpo", "lists": "list_mle"}}, "train.loss.labels: missing; "),
        (
            {"labels": GONE},
            "train.loss.labels: the configuration has no labels; leave it out, or give labels:",
        ),
        (
            {"lists": GONE, "labels": GONE, "pairs.weight": GONE},
            "train.loss: names a loss for pairs, lists and labels, and this configuration "
            "starts with pairs alone",
        ),
        (
            {"lists": GONE, "labels": GONE},
            "pairs.weight: is the share of pairs beside other items, and there are no others",
        ),
        (
            {"train.pairs_per_step": 3},
            "lists.weight: 1 of 4 is 0.75 of the 3 items of a step, and every step needs one of "
            "each kind",
        ),
        (
            {"lists": {"name": "file", "path": "lists.jsonl", "weight": 0}},
            "lists.weight: Input should be greater",
        ),
        (
            {"train.step_source": {"name": "my_sources:Replay"}},
            "train.step_source: 'my_sources:Replay' chooses the items of a step, and so do the "
            "weights of pairs, lists, labels",
        ),
        (
            {
                "train.regularizer": {"name": "budget", "delta": "auto"},
                "train.regularizer_weight": "auto",
            },
            "train.regularizer.delta: auto compares the rewards of pairs, and the training is on "
            "pairs, lists and labels; give a number",
        ),
        ({"train.loss": {**LOSSES, "list": "list_mle"}}, "train.loss.list: unknown key; did you"),
        (
            {"train.loss": GONE, "train.reward": {"loss": "bradley_terry"}},
            "train.reward: a reward model is trained on items of one kind (got pairs, lists and "
            "labels); start with pairs: or lists: alone",
        ),
        (
            {"bridge": {"model": "openai"}},
            "bridge: rewrites the rejected answers of pairs, and this configuration starts with "
            "pairs, lists and labels; take the section out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_spent(
    items: Place, changes: dict[str, Any], says: str
) -> None:
    items.put("my_sources.py", REPLAY.read_bytes())
    items.change(changes)
    result = prefine("run", "run.yaml")
    assert result.code == CONFIG
    assert says in " ".join(result.err.split())
    assert not Path("run/pairs").exists()
