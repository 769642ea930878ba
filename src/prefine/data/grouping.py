"""Gather the rows of each prompt into one row, wherever they stand in the source."""

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter

from prefine.data.first_seen import FirstSeen
from prefine.data.layouts.protocol import PROMPT_NAMES, SourceRow
from prefine.errors import DataError
from prefine.records import content_hash

_IDENTITY = (*PROMPT_NAMES, "tools", "chat_template_kwargs")


def by_prompt(rows: Iterable[SourceRow], limit: int | None = None) -> Iterator[SourceRow]:
    """Yield one row for each prompt, in the order of their first rows, with the completions of all.

    Place and other columns are those of the first row. A row without a prompt or completions is
    yielded unchanged.

    Args:
        rows: In our own columns.
        limit: Keep the answers of the first prompts only.
    """
    # First, all rows go into a temporary database, because they may not fit into memory; then they
    # are read back prompt by prompt. The empty name is a file that is deleted when it is closed.
    # The primary key is the order of reading, so that nothing is copied again to be sorted.
    # Not only in this thread: rows that nobody reads to their end are closed by whatever thread
    # collects them.
    with closing(sqlite3.connect("", check_same_thread=False)) as database:
        database.execute(
            "CREATE TABLE answers (prompt INTEGER, number INTEGER, content BLOB, "
            "PRIMARY KEY (prompt, number)) WITHOUT ROWID"
        )
        prompts = FirstSeen(database)
        # Answers keep the order of the source, because their numbers are part of their ids.
        for number, row in enumerate(rows):
            key = _prompt_key(row)
            completions = row.values.get("completions")
            if key is None or not isinstance(completions, list) or not completions:
                yield row
                continue
            first = prompts.get(key)
            if first is None:
                if prompts.count == limit:
                    continue
                first = number
                prompts.add(key, first)
            database.execute("INSERT INTO answers VALUES (?, ?, ?)", (first, number, _pickled(row)))
        found = database.execute("SELECT prompt, content FROM answers ORDER BY prompt, number")
        for _, stored in groupby(found, key=itemgetter(0)):
            group = [SourceRow(*pickle.loads(content)) for _, content in stored]
            answers = [answer for row in group for answer in row.values["completions"]]
            yield group[0]._replace(
                values=group[0].values | {"completions": answers},
                places=tuple(place for row in group for place in _places(row)),
            )


def _prompt_key(row: SourceRow) -> str | None:
    values = row.values
    try:
        return content_hash(
            {name: values[name] for name in _IDENTITY if values.get(name) is not None}
        )
    except (TypeError, ValueError):
        return None  # reading the prompt will say what is wrong with it


def _pickled(row: SourceRow) -> bytes:
    try:
        return pickle.dumps(tuple(row))
    except Exception as error:  # a user's function may yield anything
        raise DataError(
            f"{row.where}: holds a value that cannot be copied ({error}); remove or convert it"
        ) from error


def _places(row: SourceRow) -> Iterable[str]:
    count = len(row.values["completions"])
    return row.places or [f"{row.where}, completion {number}" for number in range(count)]
