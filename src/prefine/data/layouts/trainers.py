"""Preferences in the columns of other trainers and of the data sets that were made for them."""

from collections.abc import Mapping
from typing import Any

from prefine.data.import_report import UselessRow
from prefine.data.layouts.protocol import SourceRow, Values, optional_number, rest, show
from prefine.errors import DataError

_NEMO_END = "\n<extra_id_1>"


def openai_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `input` (messages and tools), `preferred_output` and `non_preferred_output`."""
    asked = row.values["input"]
    if not isinstance(asked, dict) or "messages" not in asked:
        raise DataError(
            f"{row.where}: input must be an object with messages, got {show(asked)}; see OpenAI's "
            "format of preference data"
        )
    # A table writes None, and the service an empty list, where there are no tools.
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    values = rest(row.values, "input", "preferred_output", "non_preferred_output")
    return (
        values
        | rest(asked, "messages", "tools")
        | tools
        | {
            "prompt": asked["messages"],
            "chosen": row.values["preferred_output"],
            "rejected": row.values["non_preferred_output"],
        }
    )


def llama_factory(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `instruction`, `input` and `output`, a list of the better and the worse answer."""
    outputs = row.values["output"]
    if not isinstance(outputs, list) or len(outputs) != 2:
        raise DataError(
            f"{row.where}: output must be a list of two answers, the better one first, got "
            f"{show(outputs)}"
        )
    return rest(row.values, "output") | {"chosen": outputs[0], "rejected": outputs[1]}


def named_responses(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `chosen_response` and `rejected_response` (NeMo-Aligner, Argilla)."""
    sides = {}
    for side in ("chosen", "rejected"):
        value = row.values[f"{side}_response"]
        sides[side] = value.removesuffix(_NEMO_END) if isinstance(value, str) else value
    return rest(row.values, "chosen_response", "rejected_response") | sides


def orca(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `system`, `question` (or `input`), `chosen` and `rejected`.

    Argilla's version has its judge's `rating` of both, and says in `status` which pairs are a tie.
    """
    if row.values.get("status") == "tie":
        raise UselessRow(
            "tie", f"{row.where}: status is 'tie', which is no preference: remove the row"
        )
    name = "question" if "question" in row.values else "input"
    values = rest(row.values, name, "chosen_score") | {"prompt": row.values[name]}
    ratings = row.values.get("rating")
    if isinstance(ratings, list) and len(ratings) == 2:
        one, other = (
            optional_number(SourceRow(row.where, {"rating": r}), "rating") for r in ratings
        )
        if one is not None and other is not None:
            values["score_gap"] = abs(one - other)
    return values


def context_messages(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `context_messages` (OpenRLHF): the prompt as messages."""
    return rest(row.values, "context_messages") | {"prompt": row.values["context_messages"]}


def outputs_are_two(values: Values) -> bool:
    """Return True if `output` is a list of texts instead of one text."""
    output = values.get("output")
    return isinstance(output, list) and all(isinstance(item, str | None) for item in output)
