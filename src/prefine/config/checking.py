"""Values of a configuration against pydantic models, and what is said of those that do not fit."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    GetPydanticSchema,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from prefine.config.foreign_keys import HERE
from prefine.errors import ConfigError
from prefine.schedules import Schedule

M = TypeVar("M", bound=BaseModel)


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


_TAGS = ("(number)", "(schedule)", "(either)", "(word)", "(section)", "(one)", "(by kind)")
"""Members of unions that are told apart by a discriminator."""
_EXPECTED = {
    "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]",
    "path_type": "a path: a text such as runs/first",
}
"""Python's words for values of YAML."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 2


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    return _SHORT.repr(value)


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


def strict(hint: Any, schedules: bool) -> Any:
    """Return the annotation with strict numbers and booleans: true is not 1, "8" is no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if schedules and (hint is float or (origin is Annotated and arguments[0] is float)):
        return Annotated[float | Schedule, or_schedule(strict(hint, schedules=False))]
    if schedules and origin in (Union, UnionType) and get_origin(arguments[-1]) is Literal:
        # A number or a word.
        number, (word,) = strict(arguments[0], schedules=False), get_args(arguments[-1])
        return Annotated[hint | Schedule, or_schedule(number, word=word)]
    if hint in (bool, int, float):
        return Annotated[hint, Strict()]
    if origin is Annotated:
        return Annotated[strict(arguments[0], schedules), *hint.__metadata__]
    inner = tuple(strict(argument, schedules) for argument in arguments)
    if origin in (Union, UnionType):
        return Union[inner]  # noqa: UP007 - built at run time
    return origin[inner] if origin in (list, dict, tuple) else hint


def or_schedule(number: Any, *, word: str = "") -> GetPydanticSchema:
    """Annotate a number that may also be a schedule, with the same bounds at its ends.

    With `word` it may also be this word.
    """
    adapter: TypeAdapter[float] = TypeAdapter(number, config=ConfigDict(allow_inf_nan=False))

    def check_ends(schedule: Schedule) -> Schedule:
        try:
            for value in schedule.ends:
                adapter.validate_python(value)
        except ValidationError as error:
            # The number at fault is said, not the schedule that it ends.
            found = error.errors()[0]["msg"]
            context = {"found": found, "value": value}
            raise PydanticCustomError("schedule_end", "{found}", context) from error
        return schedule

    # The discriminator chooses one of the two, so that problems are those of this one alone.
    either: Any = Annotated[
        Annotated[number, Tag("(number)")]
        | Annotated[Schedule, AfterValidator(check_ends), Tag("(schedule)")],
        Discriminator(
            lambda value: "(schedule)" if isinstance(value, Schedule | Mapping) else "(number)"
        ),
    ]
    if word:
        either = Annotated[
            Annotated[Literal[word], Tag("(word)")] | Annotated[either, Tag("(either)")],
            Discriminator(lambda value: "(word)" if value == word else "(either)"),
        ]
    return GetPydanticSchema(lambda _, handler: handler.generate_schema(either))


def _is_schedule(value: Any) -> bool:
    return isinstance(value, Schedule) or (isinstance(value, Mapping) and "schedule" in value)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a mistyped word: the nearest known word, and all of them."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "Allowed: " + ", ".join(words)


def listed(words: Iterable[str]) -> str:
    """Return words as a text lists them: "a", "a and b", "a, b and c"."""
    *others, last = (*words,) or ("",)
    return f"{', '.join(others)} and {last}" if others else last
