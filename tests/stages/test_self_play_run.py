"""Self-play through the command: from good answers or pairs to a report, and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from run_place import CONFIG, GONE, OK, PAIRS, Place, jsonl

ANSWERS: dict[str, Any] = {
    "rank": GONE,
    "completions": GONE,
    "labels": {"name": "file", "path": "labels.jsonl"},
    "pair.held_out_prompts": 0,
    "train.step_source": {"name": "self_play", "segment_tokens": 4, "reference_every": 3},
    "train.epochs": 4,
    "train.max_steps": 9,
    "train.checkpoint_every": 3,
}


@pytest.fixture
def answers(place: Place) -> Place:
    """Six prompts with a good answer each, and a bad one, which is left out."""
    good = [
        {"prompt": f"question {n}", "completion": f"a good answer {n}", "label": True}
        for n in range(6)
    ]
    place.put(
        "labels.jsonl",
        jsonl([*good, {"prompt": "question 0", "completion": "no", "label": False}]),
    )
    place.change(ANSWERS)
    return place


def test_good_answers_alone_become_a_model(answers: Place) -> None:
    planned = prefine("run", "run.yaml", "--dry-run")
    assert planned.code == OK, planned.err
    for stage in ("pair", "train"):
        result = prefine(stage, "run.yaml")
        assert result.code == OK, result.err
    made = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]["counts"]
    assert (made["taken"], made["dropped"]) == (7, {"bad_answer": 1})
    log = [json.loads(line) for line in Path("run/train_log.jsonl").read_text().splitlines()]
    assert [row["pairs"] for row in log] == [2] * 9
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert Path("run/model/model.safetensors").is_file()


def test_of_given_pairs_the_rejected_answers_are_for_the_evaluation_alone(answers: Place) -> None:
    answers.change({**PAIRS, "labels": GONE, "pair.held_out_prompts": 1})
    answers.change({"train.evaluate_every": 3})
    logs = []
    for number, rejected in enumerate(("bad", "a very different answer")):
        rows = [
            {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"{rejected} {n}"}
            for n in range(4)
        ]
        answers.put("pairs.jsonl", jsonl(rows))
        answers.change({"run_dir": f"run-{number}"})
        result = prefine("run", "run.yaml")
        assert result.code == OK, result.err
        names = ("train_log.jsonl", "eval_log.jsonl")
        logs.append([Path(f"run-{number}", name).read_bytes() for name in names])
    assert logs[0][0] == logs[1][0] and logs[0][1] != logs[1][1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pair.held_out_prompts": 2}, "pair.held_out_prompts: 2 prompts would be held out"),
        (
            {"train.loss": {"name": "kto"}, "train.regularizer": GONE},
            "'self_play' makes pairs of answers to one prompt, which train.loss 'kto' does not",
        ),
        ({"train.step_source.ema": 1.5}, "train.step_source.ema"),
        ({"train.reference": {"name": "hf", "path": "model"}}, "take train.reference out"),
    ],
)
def test_what_does_not_go_together_is_refused(
    answers: Place, changes: dict[str, Any], says: str
) -> None:
    answers.change(changes)
    result = prefine("run", "run.yaml")
    assert result.code == CONFIG, result.err
    assert says in result.err.replace("\n", " ")
