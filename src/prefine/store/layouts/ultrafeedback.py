"""UltraFeedback: the raw data with four graded completions, and the binarized pairs."""

from collections.abc import Mapping
from typing import Any

from prefine.errors import DataError
from prefine.store.layouts.base import Row, Values, number, rest, show, text
from prefine.store.layouts.conversations import split


def raw(row: Row, _: Mapping[str, Any]) -> Values:
    """`instruction`, `models` and `completions`, graded by `overall_score`."""
    items = row.values["completions"]
    if not isinstance(items, list):
        raise DataError(f"{row.where}: completions must be a list, got {show(items)}")
    completions = []
    for number_, item in enumerate(items):
        where = f"{row.where}, completion {number_}"
        if not isinstance(item, dict) or "response" not in item:
            raise DataError(f"{where}: expected an object with model and response, got {show(item)}")
        own = rest(item, "response", "overall_score")
        if item.get("overall_score") is not None:
            own["grade"] = number(Row(where, item), "overall_score")
        completions.append(own | {"text": text(Row(where, item), "response")})
    return rest(row.values, "instruction", "models", "completions") | {
        "prompt": text(row, "instruction"),
        "completions": completions,
    }


def binarized(row: Row, _: Mapping[str, Any]) -> Values:
    """`prompt` beside `chosen` and `rejected` that repeat it as their first turn."""
    chosen_score, rejected_score = number(row, "score_chosen"), number(row, "score_rejected")
    if chosen_score < rejected_score:
        raise DataError(
            f"{row.where}: score_chosen {chosen_score} is below score_rejected {rejected_score}; swap the sides"
        )
    values = rest(row.values, "messages", "score_chosen", "score_rejected")
    values |= {"score_gap": chosen_score - rejected_score, "scores": [chosen_score, rejected_score]}
    sides = [row.values["chosen"], row.values["rejected"]]
    if not any(isinstance(side, list) and len(side) > 1 for side in sides):
        return values
    prompt = row.values["prompt"]
    found = split(Row(row.where, rest(values, "prompt")))
    turns = [turn.get("content") for turn in found["prompt"] if turn.get("role") == "user"]
    if isinstance(prompt, str) and prompt not in turns:
        raise DataError(
            f"{row.where}: prompt {show(prompt)} is not a user turn of chosen and rejected, which begin with "
            f"{show(turns[0] if turns else None)}; repair the row"
        )
    return found
