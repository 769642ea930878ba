"""Messages about values: one line for each problem, with its path and what is allowed."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from prefine.config.foreign_keys import HERE
from prefine.errors import ConfigError
from prefine.schedules import Schedule

M = TypeVar("M", bound=BaseModel)
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = SHORT.maxlong = 100
SHORT.maxlevel = 2


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a mistyped word: the nearest known word, and all of them."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "Allowed: " + ", ".join(words)


def checked(model: type[M], values: Any, *, where: str) -> M:
    """Return the values as the model has them; `where` is their config path for messages.

    Raises:
        ConfigError: A key is unknown, or a value missing or out of its bounds.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe(error, where, model)) from error


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
            if part not in ("Component", "(number)", "(schedule)")
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
        # A whole section would not help as the value.
        if path and problem["type"] not in ("missing", "extra_forbidden"):
            value = problem.get("ctx", {}).get("value", problem["input"])
            message += f" (got {SHORT.repr(value)})"
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
