"""Answers with grades: UltraFeedback and HelpSteer."""

import re
from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import SourceRow, Values, answer, number, rest, show, text
from prefine.errors import DataError

_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_STRONGEST = 3


def ultrafeedback(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `instruction`, `models` and `completions`, graded by `overall_score`."""
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    completions = []
    for place, item in enumerate(items):
        where = f"{row.where}, completion {place}"
        if not isinstance(item, dict) or "response" not in item:
            raise DataError(
                f"{where}: expected an object with model and response, got {show(item)}"
            )
        graded = rest(item, "response", "overall_score")
        if item.get("overall_score") is not None:
            graded["grade"] = number(SourceRow(where, item), "overall_score")
        completions.append(graded | {"text": answer(SourceRow(where, item), "response")})
    return rest(row.values, "instruction", "models", "completions") | {
        "prompt": text(row, "instruction"),
        "completions": completions,
    }


def helpsteer(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert one answer with its five grades; `helpfulness` is the one that counts."""
    graded = {"text": answer(row, "response"), "grade": number(row, "helpfulness")}
    return {
        "prompt": _prompt(row),
        "completions": [rest(row.values, "prompt", "response", "helpfulness") | graded],
    }


def helpsteer2_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `response_1` and `response_2` with their `preference_strength`."""
    pair = _pair(row, "response_1", "response_2", "preference_strength")
    return rest(pair, "prompt") | {"prompt": _prompt(row)}


def helpsteer3_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `context` with `response1` and `response2`, and their `overall_preference`."""
    pair = _pair(row, "response1", "response2", "overall_preference")
    return rest(pair, "context") | {"prompt": row.values["context"]}


def _pair(row: SourceRow, first: str, second: str, name: str) -> Values:
    """Replace two answers and a strength from -3 (the first is much better) to 3 (the second)."""
    strength = number(row, name)
    if abs(strength) > _STRONGEST:
        raise DataError(
            f"{row.where}: {name} must be between -3 and 3, got {show(row.values[name])}"
        )
    better, worse = (first, second) if strength <= 0 else (second, first)
    return rest(row.values, first, second, name) | {
        "chosen": text(row, better),
        "rejected": text(row, worse),
        "score_gap": abs(strength),
    }


def _prompt(row: SourceRow) -> str | list[dict[str, str]]:
    """Split a text of several turns at the marks between them."""
    first, *parts = _TURN.split(text(row, "prompt"))
    if not parts:
        return first
    turns = [{"role": "user", "content": first}]
    for role, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": role.lower(), "content": content})
    return turns
