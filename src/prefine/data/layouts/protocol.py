"""The row and layout types, and what all readers of rows share."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

from prefine.data.import_report import UselessRow
from prefine.errors import DataError

Values = dict[str, Any]
Messages = list[dict[str, Any]]
PROMPT_NAMES = ("prompt", "instruction", "messages")
ANSWER_NAMES = ("completion", "response", "output")
HISTORY_NAMES = (
    "history",
    "chat_history",
    "conversation_history",
    "dialog_history",
    "dialogue_history",
    "previous_messages",
    "previous_turns",
)
"""Columns of earlier turns, which stand before those of the prompt."""

SYSTEM_NAMES = ("system", "system_prompt", "system_message", "system_instruction")
"""Columns of a text that is the system turn of a prompt without one."""

_SHOWN = 60
_NOTHING = ("nan", "none", "null", "na", "n/a", "#n/a", "<na>", "-")


class SourceRow(NamedTuple):
    """One row of a source: its place ("prompts.jsonl, line 3"), its fields and its layout.

    `places` has the place of each completion, where they were rows of their own. `useless` says why
    a well-formed row has no fields in our columns; the reader of the rows counts it. `reasoned` is
    the number of answers whose reasoning was split off from their text.
    """

    where: str
    values: Values
    layout: str = "prefine"
    places: tuple[str, ...] = ()
    useless: UselessRow | None = None
    reasoned: int = 0


class Layout(NamedTuple):
    """A layout: its name, the columns it is recognised by, and the function that converts a row.

    `columns` are alternatives; a row with all columns of one of them has the layout. `fits` looks
    at the values where the names are not enough. `grouped`: a row is one answer, and the rows of a
    prompt become one. `needs_questions`: the prompts are in another file.
    """

    name: str
    columns: tuple[frozenset[str], ...]
    convert: Callable[[SourceRow, Mapping[str, Any]], Values]
    fits: Callable[[Values], bool] = lambda values: True
    grouped: bool = False
    needs_questions: bool = False

    def columns_in(self, values: Values) -> frozenset[str] | None:
        """Return the largest of the alternatives that these columns contain, if any."""
        fitting = [columns for columns in self.columns if columns <= values.keys()]
        return max(fitting, key=len, default=None)


def show(value: Any) -> str:
    """Return a value for a message, clipped."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def has(values: Mapping[str, Any]) -> str:
    """Return the names of the columns for a message."""
    return f"there is {', '.join(sorted(map(str, values))) or 'nothing'}"


def rest(values: Values, *used: str) -> Values:
    """Return the columns that the layout does not use; they become metadata."""
    return {name: value for name, value in values.items() if name not in used}


def number(row: SourceRow, name: str) -> float | int:
    """Return a field that must be a finite number, in a CSV file as text; else raise DataError."""
    value = row.values[name]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DataError(f"{row.where}: {name} is missing (got {value}); fill it, or remove the row")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) < float("inf")
    ):
        raise DataError(
            f"{row.where}: {name} must be a finite number, got {show(row.values[name])}"
        )
    return value


def optional_number(row: SourceRow, name: str) -> float | int | None:
    """Return a number that may be missing (or its column); raise DataError if it is no number."""
    return None if is_no_number(row.values.get(name)) else number(row, name)


def is_no_number(value: Any) -> bool:
    """Return True for what stands where a number or a vote is missing, also as a word."""
    return is_missing(value) or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def is_missing(value: Any) -> bool:
    """Return True for what tables write where nothing is: None, NaN, an empty cell."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def is_text(value: Any) -> TypeGuard[str]:
    """Return True for a text that says something."""
    return isinstance(value, str) and bool(value.strip())


def no_vote(row: SourceRow, name: str) -> UselessRow:
    """Return the reason to set a row aside that does not say which answer is better."""
    return UselessRow(
        "no preference given",
        f"{row.where}: {name} is missing (got {row.values.get(name)}), so nobody says which answer "
        "is better; fill it, or remove the row",
    )


def is_conversation(value: Any) -> TypeGuard[Messages]:
    """Return True for a list of at least one object; the messages' fields are checked later."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
