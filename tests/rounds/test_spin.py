"""The reference answer against an own sample: no judge, no ranking, in rounds (SPIN)."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from prefine.config.components import TABLES, UNRANKED, lookup
from prefine.pairing.protocol import selector_facts
from prefine.run.view import RunView
from run_place import CONFIG, DATA, GONE, OK, Place, jsonl

SETTINGS: dict[str, Any] = {
    "completions": GONE,
    "rank": GONE,
    "prompts": {"name": "file", "path": "prompts.jsonl"},
    "sample": {"completions_per_prompt": 1, "temperature": 1.0, "max_new_tokens": 6},
    "pair": {"selector": "reference_vs_sample", "held_out_prompts": 0},
    "train.train_on_truncated": True,
    "evaluate": {"prompts": {"name": "file", "path": "unseen.jsonl"}, "bootstrap_samples": 50},
}


@pytest.fixture
def spin(place: Place) -> Place:
    """Eight prompts with a reference answer each, and one sample."""
    rows = [{"prompt": f"question {n}", "reference": f"a good answer {n}"} for n in range(8)]
    place.put("prompts.jsonl", jsonl(rows))
    place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(4)]))
    place.change(SETTINGS)
    return place


def stages(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "manifest.json").read_text())["stages"]
    return found


def test_two_rounds_against_the_own_samples(spin: Place) -> None:
    spin.change({"rounds": {"count": 2, "prompts": "same", "reference": "previous"}})
    planned = prefine("run", "run.yaml", "--dry-run")
    assert planned.code == OK, planned.err
    assert planned.out.splitlines()[0] == (
        "stages: sample → pair → train → evaluate → report, in 2 rounds"
    )
    assert "judge calls" not in planned.out
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    rejected = []
    for number in (1, 2):
        folder = f"run/round-0{number}"
        assert set(stages(folder)) == {"sample", "pair", "train", "evaluate", "report"}
        pairs = list(RunView(Path(folder)).pairs())
        assert sorted(pair.chosen.text for pair in pairs) == [
            f"a good answer {n}" for n in range(8)
        ]
        samples = {one.text for _, found in RunView(Path(folder)).completions() for one in found}
        rejected.append({pair.rejected.text for pair in pairs})
        assert rejected[-1] <= samples
        assert all(pair.p_chosen is None and pair.score_gap is None for pair in pairs)
    assert rejected[0] != rejected[1], "the second round plays against the policy of the first"
    trained = stages("run/round-01")["train"]["output_hashes"]["model"]
    assert stages("run/round-02")["train"]["input_hashes"]["policy"] == trained
    again = prefine("run", "run.yaml")
    assert again.code == OK and "round 1 of" not in again.err


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "why ?", "reference": "because ."},
        {"prompt": "why ?", "completion": "because ."},
        {"prompt": "why ?", "chosen": "because .", "rejected": "no ."},
        {"messages": [{"role": "user", "content": "why ?"},
                      {"role": "assistant", "content": "because ."}]},
        {"instruction": "why ?", "output": "because ."},
        {"prompt": "why ?", "completions": [{"text": "because .", "label": True},
                                            {"text": "no .", "label": False}]},
    ],
)  # fmt: skip
def test_the_reference_is_the_answer_that_the_row_has(spin: Place, row: dict[str, Any]) -> None:
    spin.change({"policy": {"name": "scripted", "replies": ["it is so ."]}})
    spin.put("prompts.jsonl", jsonl([row]))
    for stage in ("sample", "pair"):
        result = prefine(stage, "run.yaml")
        assert result.code == OK, result.err
    (pair,) = RunView(Path("run")).pairs()
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == (
        "why ?",
        "because .",
        "it is so .",
    )
    assert pair.chosen.finish_reason == "stop"


def test_a_sample_that_is_the_reference_is_no_pair(spin: Place) -> None:
    replies = ["a good answer 3", "bad"]
    spin.change({"policy": {"name": "scripted", "replies": replies}})
    spin.change({"sample.completions_per_prompt": 4, "pair.pairs_per_prompt": 3})
    for stage in ("sample", "pair"):
        result = prefine(stage, "run.yaml")
        assert result.code == OK, result.err
    pairs = list(RunView(Path("run")).pairs())
    assert {pair.rejected.text for pair in pairs} == {"a good answer 3", "bad"}
    assert all(pair.chosen.text != pair.rejected.text for pair in pairs)


def test_a_section_rank_is_for_the_evaluation_then(spin: Place) -> None:
    spin.put("judge_of_length.py", "def longest(p, c) -> float:\n    return float(len(c.text))\n")
    spin.change({"rank": {"judge": {"name": "judge_of_length:longest"}}})
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert "rank" not in stages("run")
    assert "win rate by judge_of_length:longest (judge)" in result.out
    refused = prefine("rank", "run.yaml")
    assert refused.code == CONFIG
    assert "'reference_vs_sample' reads no ranking, so there is nothing to rank" in refused.err


@pytest.mark.parametrize(
    ("changes", "row", "code", "says"),
    [
        ({}, {"prompt": "a"}, DATA, "prompts.jsonl, line 9: no reference answer"),
        (
            {},
            {"prompt": "a", "completions": ["b", "c"]},
            DATA,
            "line 9: no reference answer, which pair.selector reference_vs_sample prefers to "
            "samples: 2 answers could be it",
        ),
        ({"pair.min_gap": 1.0}, None, CONFIG, "pair.min_gap: needs the scores or duels"),
        ({"train.loss": {"name": "odpo"}}, None, CONFIG, "reads no ranking that could have scores"),
        (
            {"rounds": {"count": 2, "prompts": "same", "stop": {"no_gain": 1}}},
            None,
            CONFIG,
            "rounds.stop: needs the judged win rate over the round before, and there is no judge",
        ),
        (
            {"pair.selector": "best_vs_random"},
            None,
            CONFIG,
            "sample.completions_per_prompt: should be greater than or equal to 2",
        ),
    ],
)
def test_what_is_refused(
    spin: Place, changes: dict[str, Any], row: dict[str, Any] | None, code: int, says: str
) -> None:
    if row is not None:
        rows = [{"prompt": f"question {n}", "reference": f"good {n}"} for n in range(8)]
        spin.put("prompts.jsonl", jsonl([*rows, row]))
    spin.change(changes)
    if "pair.selector" in changes:
        spin.change({"rank": {"judge": {"name": "recorded"}}})
    result = prefine("run", "run.yaml", "--dry-run")
    assert result.code == code, result.err
    assert says in (result.err + result.out).replace("\n", " ")


def test_the_names_without_a_ranking_are_those_that_say_so() -> None:
    selectors = {name: lookup("selector", name, where="here") for name in TABLES["selector"]}
    assert {
        name for name, one in selectors.items() if selector_facts(one).standing == "reference"
    } == UNRANKED
