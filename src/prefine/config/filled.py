"""Configurations in which every component states all of its options."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from prefine.config.base import Component, marks_of
from prefine.config.components import Kind, Nested, in_full, lookup, name_of, settable_options
from prefine.config.named import outer_components, value_at
from prefine.config.sections import RunConfig

GIVEN: dict[Kind, tuple[str, ...]] = {"strategy": ("first_slot_bias",), "selector": ("seed",)}
"""Options that the stages set and users cannot."""


def filled_in(config: RunConfig) -> dict[str, JsonValue]:
    """Return the configuration as JSON values, without `run_dir` and storage.

    Raises:
        ConfigError: A component cannot be imported.
    """
    values: Any = config.resolved()
    for path, kind, _ in outer_components(config):
        *before, last = path.split(".")
        inside = value_at(values, before)
        place = int(last) if isinstance(inside, list) else last
        inside[place] = with_options(kind, inside[place], where=path)
    found: dict[str, JsonValue] = values
    return found


def with_options(kind: Kind, component: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return a component's name and options, those at their defaults included.

    Args:
        kind: The table of its name.
        component: `name` and options; a component among these may be a bare name.
        where: Its config path, for messages.

    Raises:
        ConfigError: It cannot be imported.
    """
    function = lookup(kind, component["name"], where=where)
    fields = settable_options(function, given=GIVEN.get(kind, ())).model_fields
    found: dict[str, Any] = {"name": component["name"]}
    for option, field in fields.items():
        if option not in component and field.is_required():
            continue
        value = component.get(option, field.default)
        nested = marks_of(field, Nested)
        if isinstance(value, list | tuple) and nested:
            value = [_inside(nested[0].kind, one, f"{where}.{option}") for one in value]
        elif nested:
            value = _inside(nested[0].kind, value, f"{where}.{option}")
        found[option] = value
    found |= {option: value for option, value in component.items() if option not in found}
    return dict(to_jsonable_python(found, fallback=str))


def _inside(kind: Kind, value: Any, where: str) -> Any:
    """A component in an option of another, with its options; anything else as it is."""
    if isinstance(value, Component):
        value = value.model_dump(mode="json")
    elif callable(value):
        value = name_of(kind, value)
    full = in_full(kind, value)
    if isinstance(full, Mapping) and isinstance(full.get("name"), str):
        return with_options(kind, full, where=where)
    return full
