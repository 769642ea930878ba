"""Reading public files: rows with their place, checked fields, and answers as records."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from prefine.atomic import write_text
from prefine.data.files import files_at, rows_in
from prefine.data.layouts.protocol import SourceRow, has, number, show
from prefine.errors import DataError
from prefine.records import Completion, Message, Prompt, content_hash

T = TypeVar("T")


def rows_of(path: Path) -> list[SourceRow]:
    """The rows of a file, a pattern or a folder of parts.

    Raises:
        ConfigError: There is no such file.
        DataError: It is empty or damaged.
    """
    return list(_rows_in_columns(path) or rows_in(files_at(path, None)))


def first_row(path: Path) -> SourceRow:
    """The first of `rows_of`, without reading the others where that can be.

    Raises:
        ConfigError: There is no such file.
        DataError: It is empty or damaged.
    """
    return next(iter(_rows_in_columns(path) or rows_in(files_at(path, None))))


def _rows_in_columns(path: Path) -> list[SourceRow]:
    """The rows of a JSON file that holds one object of columns; none if it holds something else.

    A value that is no list is that of every row. What is wrong with any other file, the reader of
    rows says.
    """
    if not path.is_file() or path.suffix != ".json":
        return []
    with path.open("rb") as handle:
        if handle.read(1) != b"{":
            return []
    try:
        columns = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []
    lengths = {name: len(value) for name, value in columns.items() if isinstance(value, list)}
    if not lengths:
        return []
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: its columns have different numbers of rows ({show(lengths)})")
    return [
        SourceRow(
            f"{path}, row {number + 1}",
            {n: v[number] if isinstance(v, list) else v for n, v in columns.items()},
        )
        for number in range(next(iter(lengths.values())))
    ]


class Once:
    """Refuses a row that repeats the key of an earlier row, or contradicts what all rows share."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._shared: dict[str, str] = {}

    def see(self, row: SourceRow, what: str) -> None:
        """Raise DataError if an earlier row had this key, in words such as "id 3 of Math"."""
        if (before := self._seen.setdefault(what, row.where)) != row.where:
            raise DataError(f"{row.where}: {what} is already in {before}; keep one")

    def share(self, row: SourceRow, name: str, value: str) -> None:
        """Raise DataError if an earlier row had another value under this name."""
        if (before := self._shared.setdefault(name, value)) != value:
            raise DataError(
                f"{row.where}: {name} is {value!r}, but {before!r} before; keep each in its own "
                "file"
            )


def field(row: SourceRow, *names: str) -> Any:
    """The value under the first of these names that the row has.

    Raises:
        DataError: It has none of them.
    """
    for name in names:
        if name in row.values:
            return row.values[name]
    raise DataError(f"{row.where}: no field {' or '.join(map(repr, names))}; {has(row.values)}")


def text_field(row: SourceRow, *names: str) -> str:
    """A field that must be text; a number, such as an id, is taken as text.

    Raises:
        DataError: It is missing, or something else.
    """
    value = field(row, *names)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{row.where}: {names[0]} must be a text, got {show(value)}")
    return str(value)


def number_field(row: SourceRow, name: str) -> float | int:
    """A field that must be a finite number; a CSV file has it as text.

    Raises:
        DataError: It is missing, or something else.
    """
    field(row, name)
    return number(row, name)


def name_field(row: SourceRow, name: str) -> str:
    """A name that may be missing; then it is empty."""
    return str(row.values.get(name) or "")


def choice_field(row: SourceRow, name: str, choices: Mapping[str, T]) -> T:
    """The meaning of a field that must be one of a few numbers or words.

    Args:
        row: The row.
        name: Name of the field.
        choices: What each value means, by the value as text.

    Raises:
        DataError: It is missing, or something else.
    """
    value = field(row, name)
    if isinstance(value, bool) or str(value) not in choices:
        raise DataError(
            f"{row.where}: {name} must be one of {', '.join(choices)}; got {show(value)}"
        )
    return choices[str(value)]


def list_field(row: SourceRow, name: str, kind: type | UnionType, *, of: str) -> list[Any]:
    """A field that must be a list with at least one item.

    Args:
        row: The row.
        name: Name of the field.
        kind: Type of the items.
        of: What the items are, for the message.

    Raises:
        DataError: It is missing, or something else.
    """
    items = field(row, name)
    if (
        not isinstance(items, list)
        or not items
        or any(isinstance(item, bool) or not isinstance(item, kind) for item in items)
    ):
        raise DataError(
            f"{row.where}: {name} must be a list of {of} with at least one, got {show(items)}"
        )
    return items


def one_turn(prompt: Prompt, suite: str) -> str:
    """The text of a prompt for a file that has room for one user turn.

    Raises:
        DataError: The prompt has several turns.
    """
    if len(prompt.messages) != 1:
        raise DataError(
            f"prompt {prompt.id}: {len(prompt.messages)} turns; {suite}'s files hold one "
            "instruction"
        )
    return prompt.text


def answer_to(prompt: Prompt, index: int, text: str, model: str = "") -> Completion:
    """An answer as a record, with the id that `prefine import` gives it."""
    message = Message(role="assistant", content=text)
    return Completion(
        id=content_hash(prompt.id, index, model, message.chat()),
        prompt_id=prompt.id,
        sample_index=index,
        message=message,
        model=model,
    )


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_list(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as one JSON list, whole or not at all."""
    write_text(path, json.dumps(list(rows), ensure_ascii=False, indent=2) + "\n")
