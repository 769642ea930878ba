"""Sources of the user's own: functions that yield rows."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefine.config.base import Component
from prefine.config.components import options_model
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped, shaping
from prefine.data.table_formats import as_json
from prefine.errors import DataError, PrefineError


def own_source(component: Component, where: str) -> Callable[[], Iterator[SourceRow]]:
    """Return the function that reads the rows.

    Options that it does not declare, and that shape rows, are ours.

    Raises:
        ConfigError: It cannot be imported, or an option is wrong.
    """
    declared = options_model(component.lookup("source", where=where)).model_fields
    known = options_model(shaped).model_fields
    ours = {k: v for k, v in component.options.items() if k in known and k not in declared}
    theirs = {k: v for k, v in component.options.items() if k not in ours}
    function = Component(name=component.name, **theirs).resolve("source", where=where)
    options = shaping(ours, where)
    return lambda: shaped(_rows_of(function, component.name), **options)


def _rows_of(function: Callable[[], Any], name: str) -> Iterator[SourceRow]:
    """Yield the rows of a user's function, each with its place."""
    number = -1
    try:
        for number, item in enumerate(function()):
            if isinstance(item, SourceRow):
                yield item
                continue
            where = f"{name}, row {number}"
            if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in item):
                raise DataError(
                    f"{where}: expected an object with named fields, got {type(item).__name__}"
                )
            yield SourceRow(where, as_json(dict(item)))
    except PrefineError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise DataError(
            f"{name}, after row {number}: the function fails: {type(error).__name__}: {error}"
        ) from error
    if number < 0:
        raise DataError(f"{name}: the function yields no rows; yield at least one")
