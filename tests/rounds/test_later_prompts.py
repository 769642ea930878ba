"""Prompts of later rounds: other files, whose rows are read as those of the first round."""

from typing import Any

import pytest

from prefine.config.sections import RunConfig
from prefine.rounds.configs import RoundsPlan

COLUMNS = {"columns": {"prompt": "instruction"}, "limit": 5}


@pytest.mark.parametrize(
    ("first", "options"),
    [
        ({"name": "file", "path": "prompts.jsonl"}, {}),
        ({"name": "file", "path": "prompts.jsonl", **COLUMNS}, COLUMNS),
        ({"name": "playground", "count": 8}, {}),
    ],
)
def test_later_files_are_read_as_the_first_one(
    first: dict[str, Any], options: dict[str, Any]
) -> None:
    config = RunConfig.model_validate(
        {
            "run_dir": "run",
            "policy": {"name": "hf", "path": "first"},
            "prompts": first,
            "sample": {},
            "rank": {"judge": {"name": "playground"}},
            "rounds": {"count": 3, "prompts": {"path": "more-{round}.jsonl"}},
        }
    )
    plan = RoundsPlan(config)
    prompts = [plan.config_of(number).prompts for number in (1, 2, 3)]
    assert [one and one.model_dump(mode="json") for one in prompts] == [
        first,
        {"name": "file", "path": "more-2.jsonl", **options},
        {"name": "file", "path": "more-3.jsonl", **options},
    ]
