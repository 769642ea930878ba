"""Errors in the shapes of vendors' own SDKs; `benchmarks/sdk_errors.py` has made them."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefine.calls.retry_after import wait_s
from prefine.models.openai.parameters import Parameters
from prefine.models.openai.refusals import server_error

CASES = json.loads(Path(__file__).with_name("sdk_errors.json").read_text(encoding="utf-8"))


def name(case: dict[str, Any]) -> str:
    return f"{case['sdk'].split()[0]} {case['status']}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_an_error_in_the_shape_of_an_sdk_is_understood(case: dict[str, Any]) -> None:
    error = server_error(case["status"], json.dumps(case["body"]).encode())
    reads = case["reads"]
    wait = wait_s({}, error.text, now=0)
    assert error.words and not error.words.startswith(("{", "["))
    assert wait == (pytest.approx(reads["wait_s"]) if "wait_s" in reads else None)
    ends = error.wont_mend(asks_to_wait=wait is not None)
    assert (ends is not None) == ("ends" in reads)
    assert reads.get("ends", "") in (ends or "")
    if "parameter" in reads:
        _, changed = next(Parameters().remedies(error, {"seed": 1, "temperature": 0.5, "n": 2}))
        assert set(changed.dropped) == {reads["parameter"]}
