"""HelpSteer: graded answers, one a row; and the preferences of its second and third edition.

Preferences go from -3 (the first answer is much better) to 3 (the second is); 0 is a tie.
"""

import re
from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import SourceRow, Values, answer, number, rest, show, text
from prefine.errors import DataError

_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
_STRONGEST = 3


def graded(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """One answer with its five grades; `helpfulness` is the one that counts."""
    graded = {"text": answer(row, "response"), "grade": number(row, "helpfulness")}
    return {
        "prompt": _prompt(row),
        "completions": [rest(row.values, "prompt", "response", "helpfulness") | graded],
    }


def preference_2(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`response_1` and `response_2` with their `preference_strength`."""
    values = rest(row.values, "prompt", "response_1", "response_2", "preference_strength")
    return (
        values
        | {"prompt": _prompt(row)}
        | _pair(row, "response_1", "response_2", "preference_strength")
    )


def preference_3(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`context` with `response1` and `response2`, and their `overall_preference`."""
    values = rest(row.values, "context", "response1", "response2", "overall_preference")
    pair = _pair(row, "response1", "response2", "overall_preference")
    return values | {"prompt": row.values["context"]} | pair


def _pair(row: SourceRow, first: str, second: str, name: str) -> Values:
    strength = number(row, name)
    if abs(strength) > _STRONGEST:
        raise DataError(
            f"{row.where}: {name} must be between -3 and 3, got {show(row.values[name])}"
        )
    better, worse = (first, second) if strength <= 0 else (second, first)
    return {"chosen": text(row, better), "rejected": text(row, worse), "score_gap": abs(strength)}


def _prompt(row: SourceRow) -> str | list[dict[str, str]]:
    """Several turns are in one text, with marks between them."""
    first, *parts = _TURN.split(text(row, "prompt"))
    if not parts:
        return first
    turns = [{"role": "user", "content": first}]
    for role, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": role.lower(), "content": content})
    return turns
