"""What is said of values of a configuration that do not fit."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from prefine.config.checking import shown, suggest
from prefine.config.foreign_keys import HERE
from prefine.schedules import Schedule

_TAGS = ("(number)", "(schedule)", "(either)", "(word)", "(section)", "(one)", "(by kind)")
"""Members of unions that are told apart by a discriminator."""
_EXPECTED = {
    "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]",
    "path_type": "a path: a text such as runs/first",
}
"""Python's words for values of YAML."""


def describe(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Return one line for each problem: its path, what is wrong, the value, and what is allowed.

    Args:
        error: What pydantic found.
        where: Config path of the values that were checked; may be empty.
        model: The model that checked them.
    """
    lines = []
    # Unknown keys come last: they are often the reason why something else is missing.
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] == "extra_forbidden"):
        # The members of unions are no part of the path in the file.
        path = [
            str(part)
            for part in problem["loc"]
            if part not in ("Component", *_TAGS)
            and not str(part).startswith(("literal[", "tuple["))
        ]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown key; {_instead(path, model)}"
        elif (
            problem["type"] not in ("value_error", "missing")
            and _is_schedule(problem["input"])
            and "(schedule)" not in problem["loc"]
        ):
            message = "has no schedule; only losses and regularizers have, for any numbers"
        elif problem["type"] == "missing" and path[-1] == "name":
            message = "missing; a component is a name, or {name: ...} with options"
        elif problem["type"] == "model_type":
            message = "expected a section: keys with values, such as {name: ...}"
        elif problem["type"] in _EXPECTED:
            message = f"expected {_EXPECTED[problem['type']]}"
        value = problem.get("ctx", {}).get("value", problem["input"])
        key, colon, rest = message.partition(": ")
        # A check of a whole section names the key that is at fault.
        if colon and isinstance(value, Mapping) and key in _fields(model, path):
            path, message, value = [*path, key], rest, value.get(key)
        # A whole section would not help as the value.
        if path and problem["type"] not in ("missing", "extra_forbidden"):
            message += f" (got {shown(value)})"
        place = ".".join([where, *path] if where else path)
        lines.append(f"{place}: {message}" if place else message)
    return "\n".join(lines)


def _instead(path: list[str], model: type[BaseModel]) -> str:
    """Return what to write instead of an unknown key."""
    key, known = path[-1], _fields(model, path[:-1])
    if key in HERE:
        return f"here it is {HERE[key]}"
    near = get_close_matches(key, list(known), n=1, cutoff=0.8)
    if not near and (places := list(_places(key, model))):
        return f"here it is {' or '.join(places)}"
    return suggest(key, known)


def _places(key: str, model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the paths at which sections have a key."""
    for name, field in model.model_fields.items():
        if name == key and prefix:
            yield prefix + name
        inner = _model_in(field.annotation)
        if inner is not None and inner.model_config.get("extra") != "allow":
            yield from _places(key, inner, f"{prefix}{name}.")


def _fields(model: type[BaseModel], path: list[str]) -> Iterable[str]:
    """Return the keys of the section at a config path."""
    for name in path:
        if name in model.model_fields:
            model = _model_in(model.model_fields[name].annotation) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


def _is_schedule(value: Any) -> bool:
    return isinstance(value, Schedule) or (isinstance(value, Mapping) and "schedule" in value)
