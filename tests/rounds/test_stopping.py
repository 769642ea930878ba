"""`rounds.stop` in a walk: it ends behind the last round that has begun."""

import json
from pathlib import Path
from typing import Any

import pytest

from command import prefine
from run_place import GONE, OK, Place, jsonl

JUDGES = """
def longest(prompt, completion) -> float:
    return float(len(completion.text))

def equal(prompt, completion) -> float:
    return 0.0
"""


@pytest.fixture
def rounds(place: Place) -> Place:
    """Two rounds of a step each, by a judge to whom all evaluation answers are equal."""
    place.put("judges_of_rounds.py", JUDGES)
    place.put("prompts.jsonl", jsonl([{"prompt": f"question {n}"} for n in range(12)]))
    place.put("unseen.jsonl", jsonl([{"prompt": f"unseen {n}"} for n in range(4)]))
    place.change(
        {
            "completions": GONE,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": 3, "temperature": 1.0, "max_new_tokens": 6},
            "rank": {
                "judge": {"name": "judges_of_rounds:longest"},
                "strategy": {"name": "pointwise"},
            },
            "pair.held_out_prompts": 0,
            "train.max_steps": 1,
            "train.train_on_truncated": True,
            "evaluate": {
                "prompts": {"name": "file", "path": "unseen.jsonl"},
                "judge": {"name": "judges_of_rounds:equal"},
                "bootstrap_samples": 50,
            },
            "rounds": {"count": 2},
        }
    )
    return place


def walk(*settings: str) -> dict[str, Any]:
    words = [word for one in settings for word in ("--set", one)]
    found = prefine("run", "run.yaml", *words, "--json")
    assert found.code == OK, found.err
    return json.loads(found.out)  # type: ignore[no-any-return]


def test_a_stop_that_comes_later_keeps_the_rounds_that_have_begun(rounds: Place) -> None:
    begun = walk()
    assert (begun["stopped_by"], len(begun["rounds"])) == (None, 2)
    ended = walk("rounds.count=3", "rounds.stop.no_gain=1")
    assert ended["rounds"] == begun["rounds"]
    assert ended["stopped_by"].startswith("stopped after round 2: a round without a judged win")
    assert not Path("run/round-03").exists()
