"""The row and layout types, and the checks of fields that layouts share."""

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


def text(row: SourceRow, name: str) -> str:
    """Return a field that must be text; raise DataError if it is none."""
    value = row.values[name]
    if value is None:
        raise DataError(f"{row.where}: {name} is missing (got None); fill it, or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {name} must be a text, got {show(value)}")
    return value


def answer(row: SourceRow, name: str) -> str:
    """Return an answer; None is an empty one, which is counted later."""
    return "" if row.values[name] is None else text(row, name)


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


def flag(value: Any) -> bool | None:
    """Return a boolean that may be written as 0 and 1, or as a word; None if it is none."""
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return known.get(str(value).strip().lower())


def preferred(
    row: SourceRow, first: str, second: str, *, first_wins: bool | None, why: str
) -> Values:
    """Return `chosen` and `rejected` instead of two columns with answers.

    Args:
        row: The row.
        first: The column of one answer.
        second: The column of the other one.
        first_wins: The vote; None for a tie.
        why: The fields that say it, with their values, for messages.

    Raises:
        UselessRow: The vote is a tie, or a tool has made a number or a boolean of an answer.
        DataError: An answer is no text.
    """
    if first_wins is None:
        raise UselessRow("tie", f"{row.where}: {why}, which is no preference: remove the row")
    for name in (first, second):
        if isinstance(row.values[name], bool | int | float):
            raise UselessRow(
                "answer is no text",
                f"{row.where}: {name} is {show(row.values[name])}, which a tool made of a text; "
                "write it as a text, or remove the row",
            )
    better, worse = (first, second) if first_wins else (second, first)
    return rest(row.values, first, second) | {
        "chosen": answer(row, better),
        "rejected": answer(row, worse),
    }


def said(row: SourceRow, name: str, allowed: Mapping[str, bool | None]) -> bool | None:
    """Return what the vote in a column means: True for the first, False for the second, None a tie.

    Args:
        row: The row.
        name: The column.
        allowed: The votes as the publisher writes them, in lower case.

    Raises:
        UselessRow: There is no vote in this row.
        DataError: It is none of those.
    """
    value = row.values[name]
    if is_no_number(value):
        raise no_vote(row, name)
    word = str(value).strip().lower()
    word = word.removesuffix(".0")  # a table that had empty cells made numbers of them
    if word not in allowed:
        raise DataError(
            f"{row.where}: {name} must be one of {', '.join(map(repr, allowed))}, got {show(value)}"
        )
    return allowed[word]


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


def conversation(value: Any, where: str) -> Messages:
    """Return a field that must be a list of messages; raise DataError if it is none."""
    if not is_conversation(value):
        raise DataError(
            f"{where}: expected a list of messages (objects with role and content), got "
            f"{show(value)}"
        )
    return value
