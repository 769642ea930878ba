"""Fields of rows: texts, answers, votes and conversations, each checked."""

from collections.abc import Mapping
from typing import Any

from prefine.data.import_report import UselessRow
from prefine.data.layouts.protocol import (
    Messages,
    SourceRow,
    Values,
    is_conversation,
    is_no_number,
    no_vote,
    rest,
    show,
)
from prefine.errors import DataError


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


def conversation(value: Any, where: str) -> Messages:
    """Return a field that must be a list of messages; raise DataError if it is none."""
    if not is_conversation(value):
        raise DataError(
            f"{where}: expected a list of messages (objects with role and content), got "
            f"{show(value)}"
        )
    return value
