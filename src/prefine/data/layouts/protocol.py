"""What a layout is, and what its functions share."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prefine.data.import_report import UselessRow
from prefine.errors import DataError

Values = dict[str, Any]
PROMPT_NAMES = ("prompt", "instruction", "messages")
_SHOWN = 60


class SourceRow(NamedTuple):
    """One row of a source: its place ("prompts.jsonl, line 3"), its fields, and the layout that they came in.

    `places` has the place of each completion, where they were rows of their own. `useless` says why
    a row that was understood has no fields in our columns; whoever counts rows sets it aside.
    """

    where: str
    values: Values
    layout: str = "prefine"
    places: tuple[str, ...] = ()
    useless: UselessRow | None = None


class Layout(NamedTuple):
    """A layout: its name, by which columns it is recognised, and how a row becomes one of ours.

    `columns` are alternatives; a row with all columns of one of them has the layout. `fits` looks
    at the values where the names do not tell. `grouped`: a row is one answer, and rows of one
    prompt become one. `needs_questions`: the prompts are in another file.
    """

    name: str
    columns: tuple[frozenset[str], ...]
    convert: Callable[[SourceRow, Mapping[str, Any]], Values]
    fits: Callable[[Values], bool] = lambda values: True
    grouped: bool = False
    needs_questions: bool = False


def show(value: Any) -> str:
    """A value for a message, clipped."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def has(values: Mapping[str, Any]) -> str:
    """The columns that are there, for a message."""
    return f"there is {', '.join(sorted(map(str, values))) or 'nothing'}"


def rest(values: Values, *used: str) -> Values:
    """The columns that the layout has no use for; they become metadata."""
    return {name: value for name, value in values.items() if name not in used}


def text(row: SourceRow, name: str) -> str:
    """A field that must be text.

    Raises:
        DataError: It is not.
    """
    value = row.values[name]
    if value is None:
        raise DataError(f"{row.where}: {name} is missing (got None); fill it, or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {name} must be a text, got {show(value)}")
    return value


def answer(row: SourceRow, name: str) -> str:
    """A text that somebody wrote; where nobody did there is none, which counts as empty.

    Raises:
        DataError: It is something else.
    """
    return "" if row.values[name] is None else text(row, name)


def number(row: SourceRow, name: str) -> float | int:
    """A field that must be a finite number; a CSV file has it as text.

    Raises:
        DataError: It is not.
    """
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


def conversation(value: Any, where: str) -> list[dict[str, Any]]:
    """A field that must be a list of messages.

    Raises:
        DataError: It is not; what is inside the messages is checked later.
    """
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(item, dict) for item in value)
    ):
        raise DataError(
            f"{where}: expected a list of messages (objects with role and content), got "
            f"{show(value)}"
        )
    return value
