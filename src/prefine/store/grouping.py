"""Rows of one prompt together, wherever they stand: through a temporary database, so that memory holds one group."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

from prefine.errors import DataError
from prefine.records import content_hash
from prefine.store.layouts.base import Row


def by_prompt(rows: Iterable[Row]) -> Iterator[Row]:
    """One row for each prompt, in the order of their first rows, with the completions of all.

    The place is that of the first row, and so are other columns.
    """
    # An empty name is a database in a temporary file that is gone when it is closed.
    with closing(sqlite3.connect("")) as database:
        database.execute("CREATE TABLE answers (key TEXT, place TEXT, layout TEXT, content TEXT)")
        database.execute("CREATE TABLE groups (key TEXT PRIMARY KEY, first INTEGER)")
        for number, row in enumerate(rows):
            try:
                key, content = content_hash(row.values["prompt"]), json.dumps(row.values)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{row.where}: holds a value that JSON cannot ({error}); remove or convert it"
                ) from error
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, row.where, row.layout, content))
            database.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (key, number))
        found = database.execute(
            "SELECT groups.first, place, layout, content FROM answers JOIN groups USING (key) "
            "ORDER BY groups.first, answers.rowid"
        )
        group: Row | None = None
        last = -1
        for first, place, layout, content in found:
            values = json.loads(content)
            if group is None or first != last:
                if group is not None:
                    yield group
                group, last = Row(place, values | {"completions": []}, layout), first
            group.values["completions"].extend(values["completions"])
            group = group._replace(places=(*group.places, *[place] * len(values["completions"])))
        if group is not None:
            yield group
