"""Rows of one prompt together, wherever they stand: through a temporary database, so that memory holds one group."""

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from prefine.data.layouts.protocol import PROMPT_NAMES, SourceRow, Values
from prefine.errors import DataError
from prefine.records import content_hash

_DECIDES = (*PROMPT_NAMES, "tools", "chat_template_kwargs")


def by_prompt(rows: Iterable[SourceRow], limit: int | None = None) -> Iterator[SourceRow]:
    """One row for each prompt, in the order of their first rows, with the completions of all.

    The place is that of the first row, and so are other columns. A row without a prompt and
    completions comes as it is.

    Args:
        rows: In our own columns.
        limit: Keep the answers of the first prompts only.
    """
    # An empty name is a database in a temporary file that is gone when it is closed.
    with closing(sqlite3.connect("")) as database:
        database.execute("CREATE TABLE answers (key TEXT, content BLOB)")
        database.execute("CREATE TABLE groups (key TEXT PRIMARY KEY, first INTEGER)")
        prompts = 0
        for number, row in enumerate(rows):
            key = _key(row)
            if (
                key is None
                or not isinstance(row.values.get("completions"), list)
                or not row.values["completions"]
            ):
                yield row
                continue
            known = database.execute("SELECT 1 FROM groups WHERE key = ?", (key,)).fetchone()
            if known is None:
                prompts += 1
                if limit is None or prompts <= limit:
                    database.execute("INSERT INTO groups VALUES (?, ?)", (key, number))
                else:
                    continue
            database.execute("INSERT INTO answers VALUES (?, ?)", (key, _packed(row)))
        # The answers of a prompt in the order in which they stand: their numbers are part of their
        # ids.
        found = database.execute(
            "SELECT groups.first, content FROM answers JOIN groups USING (key) ORDER BY "
            "groups.first, answers.rowid"
        )
        group: SourceRow | None = None
        last = -1
        for first, content in found:
            row = SourceRow(*pickle.loads(content))
            if group is None or first != last:
                if group is not None:
                    yield group
                group, last = row._replace(places=_places(row)), first
                continue
            group.values["completions"].extend(row.values["completions"])
            group = group._replace(places=(*group.places, *_places(row)))
        if group is not None:
            yield group


def _key(row: SourceRow) -> str | None:
    decides: dict[str, Any] = {
        name: row.values[name] for name in _DECIDES if row.values.get(name) is not None
    }
    try:
        return content_hash(decides)
    except (TypeError, ValueError):
        return None  # whoever reads the prompt will name what is wrong with it


def _packed(row: SourceRow) -> bytes:
    values: Values = row.values
    try:
        return pickle.dumps((row.where, values, row.layout, row.places))
    except Exception as error:  # a user's function may yield anything
        raise DataError(
            f"{row.where}: holds a value that cannot be copied ({error}); remove or convert it"
        ) from error


def _places(row: SourceRow) -> tuple[str, ...]:
    return row.places or tuple(
        f"{row.where}, completion {n}" for n in range(len(row.values["completions"]))
    )
