"""Values of a configuration against pydantic models; `messages` says what does not fit."""

import reprlib
from collections.abc import Iterable, Mapping
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
        # Here and not above: most values fit.
        from prefine.config.messages import describe

        raise ConfigError(describe(error, where, model)) from error


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 2


def shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    return _SHORT.repr(value)


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


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a mistyped word: the nearest known word, and all of them."""
    words = sorted(known)
    near = get_close_matches(word, words, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "Allowed: " + ", ".join(words)


def listed(words: Iterable[str]) -> str:
    """Return words as a text lists them: "a", "a and b", "a, b and c"."""
    *others, last = (*words,) or ("",)
    return f"{', '.join(others)} and {last}" if others else last
