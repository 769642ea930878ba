"""The automatic budget through the real command: what it trains, says and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.config.sections import RunConfig
from prefine.config.yaml import load
from prefine.run.view import RunView
from prefine.stages.anchors import read_anchors
from prefine.stages.budget import automatic_budget, budget_of
from prefine.stages.training_inputs import trainable
from run_place import CONFIG, DATA, GONE, OK, PAIRS, Place, jsonl

AUTO = {
    "train.regularizer": {"name": "budget", "delta": 3.0},
    "train.regularizer_weight": "auto",
}


def answers(count: int = 700, completions: int = 3) -> bytes:
    return jsonl(
        [
            {
                "prompt": f"question {n}",
                "completions": [
                    {"text": f"answer {n} {m}", "grade": m} for m in range(completions)
                ],
            }
            for n in range(count)
        ]
    )


def pairs(count: int = 700) -> bytes:
    return jsonl(
        [
            {"prompt": f"question {n}", "chosen": f"good {n}", "rejected": f"bad {n}"}
            for n in range(count)
        ]
    )


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("run", name).read_text().splitlines()]


def test_all_stages_say_whether_the_budget_was_kept(place: Place) -> None:
    place.put("answers.jsonl", answers())
    place.change(AUTO | {"train.regularizer.anchor": {"chosen": 1.0, "better": 1.0}})
    place.change({"train.max_steps": 4, "train.learning_rate": 0.02})
    assert prefine("config", "check", "run.yaml").code == OK
    ran = prefine("run", "run.yaml", "--json")
    assert ran.code == OK, ran.err
    found = json.loads(ran.out)
    # 128 prompts: 10 % would be fewer. Half of them are the probe.
    assert found["held_out_fall"]["n"] == 64
    assert found["held_out_fall"]["name"] == "untouched_fall"
    assert found["budget"] in ("kept", "exceeded", "undecided")
    measured = rows("budget_log.jsonl")
    assert [row["step"] for row in measured] == [0, 3, 4]
    assert measured[-1]["untouched_fall"] == found["held_out_fall"]["value"]
    said = f"is {found['budget']}: on 64 untouched pairs, which neither training nor the controller"
    assert said in Path("run/report.html").read_text()
    assert said in Path("run/model/README.md").read_text()
    # It is drawn once it was more than 0.
    weights = [row["regularizer_weight"] for row in measured]
    drawn = "Weight of the budget" in Path("run/report.html").read_text()
    assert drawn == (max(weights) > 0), weights
    shown = prefine("run", "run.yaml")
    assert "of untouched pairs" in shown.err + shown.out


@pytest.mark.parametrize(
    ("completions", "same"), [(3, {"chosen": 1.0, "better": 1.0}), (2, "chosen")]
)
def test_where_completions_are_ranked_the_better_ones_are_anchors_too(
    place: Place, completions: int, same: Any
) -> None:
    place.put("answers.jsonl", answers(240, completions))
    place.change({"pair.held_out_prompts": 200})
    # Below zero, so that the weight is more than 0 from the start.
    place.change(AUTO | {"train.regularizer.delta": -3.0})
    place.change({"train.max_steps": 4, "train.learning_rate": 0.02})
    assert prefine("run", "run.yaml").code == OK
    begun = json.loads(Path("run/config.json").read_text())["config"]["train"]["regularizer"]
    assert begun == {"name": "budget", "delta": -3.0, "anchor": "auto"}
    notes = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]["notes"]
    alone = any("pulls at chosen answers alone" in note for note in notes)
    assert alone == (completions == 2)
    place.change({"train.regularizer.anchor": same, "run_dir": "stated"})
    assert prefine("run", "run.yaml").code == OK
    weights = [Path(run, "model", "model.safetensors").read_bytes() for run in ("run", "stated")]
    assert weights[0] == weights[1]


def test_answers_to_prompts_that_pair_left_out_are_anchors(place: Place) -> None:
    place.put("answers.jsonl", answers(60))
    place.change(AUTO | {"train.regularizer.anchor": {"unused": 1.0, "better": 1.0}})
    place.change({"pair.held_out_prompts": 4, "pair.fraction": 0.5})
    for stage in ("sample", "rank", "pair"):
        assert prefine(stage, "run.yaml").code == OK
    config = load(Path("run.yaml"))
    budget = automatic_budget(config)
    assert budget is not None
    policy = trainable(config.policy, where="policy")
    found = read_anchors(config, policy, budget, examples=[], held_out=[])
    view = RunView(Path("run"))
    paired = {pair.prompt.id for table in ("pairs", "heldout_pairs") for pair in view.pairs(table)}
    left_out = [
        {one.id for one in completions}
        for prompt, completions in view.completions()
        if prompt.id not in paired
    ]
    assert len(left_out) == 28, "half of the 56 that are not held out"
    unused, better = ({item.id for item in found[kind]} for kind in ("unused", "better"))
    assert all(ids <= unused and len(ids & better) == 2 for ids in left_out)


def test_imported_pairs_may_name_a_file_of_anchors(place: Place) -> None:
    place.put("pairs.jsonl", pairs())
    place.put("answers.jsonl", answers(20))
    place.change(PAIRS | AUTO)
    place.change({"train.regularizer.anchor": "unused"})
    refused = prefine("run", "run.yaml")
    assert refused.code == CONFIG
    assert "this configuration starts with pairs; name a file" in refused.err
    place.change({"train.regularizer.anchors": "answers.jsonl"})
    ran = prefine("run", "run.yaml", "--json")
    assert ran.code == OK, ran.err
    assert len(rows("budget_log.jsonl")) == 2


def test_a_climbing_delta_says_what_it_tried_and_goes_on_after_an_interruption(
    place: Place,
) -> None:
    place.put("pairs.jsonl", pairs())
    place.change(PAIRS | AUTO)
    climbing = {"name": "budget", "delta": "auto", "start": 0.2, "step": 0.2, "looks": 4}
    place.change({"train.regularizer": climbing, "train.learning_rate": 0.02})
    place.change({"train.max_steps": 8, "train.checkpoint_every": 3})
    assert prefine("config", "check", "run.yaml").code == OK
    ran = prefine("run", "run.yaml", "--json")
    assert ran.code == OK, ran.err
    looks = rows("climb_log.jsonl")
    assert [row["step"] for row in looks] == [2, 4, 6, 8]
    said = json.loads(Path("run/manifest.json").read_text())["stages"]["train"]["notes"]
    assert any("delta: auto (experimental) looked 4 times" in note for note in said)
    logs = ("train_log.jsonl", "budget_log.jsonl", "climb_log.jsonl", "train_final.json")
    whole = {name: Path("run", name).read_bytes() for name in logs}
    weights = Path("run/model/model.safetensors").read_bytes()
    # As after a kill within the last steps: the newest checkpoint is gone, and so is the model.
    newest = max(Path("run/checkpoints").glob("step-*"))
    (newest / "state.json").unlink()
    shutil.rmtree("run/model")
    resumed = prefine("train", "run.yaml")
    assert resumed.code == OK, resumed.err
    assert {name: Path("run", name).read_bytes() for name in logs} == whole
    assert Path("run/model/model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.regularizer": GONE}, "regularizer_weight: auto sets the weight of a budget"),
        (
            {"train.regularizer": {"name": "nll"}},
            "regularizer_weight: auto is for the regularizer budget (got 'nll')",
        ),
        (
            {"train.regularizer_weight": 0.1, "train.regularizer.anchor": "unused"},
            "train.regularizer.anchor: unknown option of regularizer 'budget'; it is for "
            "train.regularizer_weight: auto",
        ),
        ({"train.regularizer.of": "median"}, "train.regularizer.of"),
        ({"train.regularizer.delta": "3"}, "train.regularizer.delta"),
        ({"train.regularizer.anchors": "x.jsonl"}, "is not read with anchor: chosen"),
        (
            {"train.regularizer.delta": "auto", "train.regularizer_weight": 0.1},
            "regularizer.delta: auto needs regularizer_weight: auto",
        ),
        (
            {
                "train.regularizer.delta": "auto",
                "train.evaluate_every": 2,
                "train.early_stop": {"patience": 2},
            },
            "early_stop does not go together with regularizer.delta: auto",
        ),
        (
            {"train.regularizer.delta": "auto", "train.regularizer.infeasible": "stop"},
            "train.regularizer.infeasible: stop does not go together with delta: auto",
        ),
        ({"train.regularizer.looks": 1}, "train.regularizer.looks"),
        ({"pair.held_out_prompts": 100}, "at most 100 prompts are held out"),
        ({"completions.limit": 500}, "at most 100 prompts are held out"),
    ],
)
def test_refused_before_any_work(place: Place, change: dict[str, Any], said: str) -> None:
    place.put("answers.jsonl", answers())
    place.change(AUTO)
    place.change({"train.regularizer.anchor": "chosen"})
    place.change(change)
    found = prefine("run", "run.yaml")
    assert found.code == CONFIG
    assert said in found.err
    assert not Path("run").exists()


def test_too_few_pairs_are_refused_with_their_number(place: Place) -> None:
    place.put("pairs.jsonl", pairs(300))
    place.change(PAIRS | AUTO)
    place.change({"pair.held_out_prompts": 100})
    found = prefine("run", "run.yaml")
    assert found.code == DATA
    assert "needs 64 in each; there are 50 and 50" in found.err


@pytest.mark.parametrize("delta", [1.5, 2])
@pytest.mark.parametrize("per", [{}, {"per": "token"}])
def test_a_plain_budget_is_read_without_its_module(delta: float, per: dict[str, str]) -> None:
    options = {"name": "budget", "delta": delta, **per}
    config = RunConfig.model_validate(
        {"run_dir": "run", "policy": "model", "pairs": "p.jsonl", "train": {"regularizer": options}}
    )
    resolved = config.train.regularizer.resolve("regularizer", where="train.regularizer").keywords
    found = budget_of(config)
    assert found is not None
    assert (found.delta, found.per) == (resolved["delta"], resolved["per"])
