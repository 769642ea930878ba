"""UltraFeedback: the raw data with four graded completions."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.protocol import SourceRow, Values, answer, number, rest, show, text
from prefine.errors import DataError


def raw(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`instruction`, `models` and `completions`, graded by `overall_score`."""
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    completions = []
    for number_, item in enumerate(items):
        where = f"{row.where}, completion {number_}"
        if not isinstance(item, dict) or "response" not in item:
            raise DataError(
                f"{where}: expected an object with model and response, got {show(item)}"
            )
        own = rest(item, "response", "overall_score")
        if item.get("overall_score") is not None:
            own["grade"] = number(SourceRow(where, item), "overall_score")
        completions.append(own | {"text": answer(SourceRow(where, item), "response")})
    return rest(row.values, "instruction", "models", "completions") | {
        "prompt": text(row, "instruction"),
        "completions": completions,
    }
