"""The base of all sections of the configuration, and components by name."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from prefine.config.components import Kind, Nested, bind, in_full, lookup
from prefine.secrets import refuse_secrets

M = TypeVar("M")
T = TypeVar("T")
Seed = Annotated[int, Field(ge=0, lt=2**53)]  # JSON readers keep integers below 2**53 exact
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
ModuleNames = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Strict(False), Field(min_length=1)
]


def _refuse_functions(value: Any) -> None:
    """Raise ValueError for a function: the configuration of a run is saved as names."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_functions(item)
    elif callable(value):
        raise ValueError(
            f"{getattr(value, '__qualname__', value)!r} is a function; name it, such as "
            "{name: dpo} or {name: my_module:my_loss}"
        )


class Section(BaseModel):
    """Base of all sections: frozen and strict; unknown keys are errors, "8" is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _components_in_full(cls, values: Any) -> Any:
        """Write every component as a mapping; one without a name is the default one."""
        if not isinstance(values, Mapping):
            return values
        full = dict(values)
        for name in full.keys() & cls.model_fields.keys():
            field = cls.model_fields[name]
            for mark in marks_of(field, Nested):
                full[name] = _in_full(full[name], mark.kind, field)
        return full

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; what was computed of them is computed anew."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            for name in copied.__dict__.keys() - type(self).model_fields.keys():
                del copied.__dict__[name]
        return copied


class Component(BaseModel):
    """A component by name; all other keys are its options, checked when it is resolved.

    It is resolved once: the stages of a run get from it what the check of the run has made.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _without_secrets(cls, values: Any) -> Any:
        refuse_secrets(values)
        _refuse_functions(values)
        return values

    @property
    def options(self) -> dict[str, Any]:
        """All keys except `name`."""
        return dict(self.__pydantic_extra__ or {})

    def resolve(self, kind: Kind, *, where: str, given: tuple[str, ...] = ()) -> Any:
        """Import the component and fill in its options; `where` is its config path for messages."""
        return self.once(
            (kind, given), lambda: bind(kind, self.name, self.options, where=where, given=given)
        )

    def lookup(self, kind: Kind, *, where: str) -> Any:
        """Import the component without checking its options."""
        return self.once(kind, lambda: lookup(kind, self.name, where=where))

    def once(self, what: Hashable, make: Callable[[], T]) -> T:
        """Return what was made of this component under the name `what`; make it the first time."""
        if what not in self._made:
            self._made[what] = make()
        found: T = self._made[what]
        return found

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}


class WeighedSource(Component):
    """A source of items of training; `weight` is their share of a step beside other items."""

    weight: Annotated[float, Strict(), Field(gt=0)] | None = None

    @model_serializer(mode="wrap")
    def _without_what_nobody_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that nobody set: runs had begun before there were any."""
        written: dict[str, Any] = write(self)
        added = type(self).model_fields.keys() - Component.model_fields
        return {
            name: value for name, value in written.items() if value is not None or name not in added
        }


class LabelSource(WeighedSource):
    """A source of labelled answers; those with a grade `above` this are good, the others bad."""

    above: Annotated[float, Strict()] | None = None


def _in_full(value: Any, kind: Kind, field: FieldInfo) -> Any:
    if isinstance(value, str) and (words := _literals(field.annotation)):
        # Where a word of ours may stand, another word is rather that one mistyped than a model.
        is_model = "/" in value or in_full(kind, value)["name"] == value or Path(value).is_dir()
        if value in words or not is_model:
            return value
    if isinstance(value, list | tuple):
        if _literals(field.annotation):
            return tuple(_in_full(one, kind, field) for one in value)
        return tuple(in_full(kind, one) for one in value)
    full = in_full(kind, value)
    if isinstance(full, Mapping) and full.keys() & _section_keys(field.annotation):
        return full
    if isinstance(full, Mapping) and "name" not in full and isinstance(field.default, Component):
        return {"name": field.default.name, **full}
    return full


def _section_keys(annotation: Any) -> frozenset[str]:
    """Return the keys of a section that a field allows in place of a component."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return frozenset(annotation.model_fields)
    return frozenset().union(*map(_section_keys, get_args(annotation)))


def _literals(annotation: Any) -> tuple[Any, ...]:
    """Return the words that a field allows beside a component, such as "initial"."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return parts
    return tuple(word for part in parts for word in _literals(part))


Backend = Annotated[Component, Nested("backend")]
Bridger = Annotated[Component, Nested("bridger")]
Judge = Annotated[Component, Nested("judge")]
Source = Annotated[Component, Nested("source")]
ItemSource = Annotated[WeighedSource, Nested("source")]


def marks_of(field: FieldInfo, kind: type[M]) -> list[M]:
    """Return the marks of one kind in a field's annotation, those of its alternatives included."""
    return [mark for mark in _metadata(field.annotation, field.metadata) if isinstance(mark, kind)]


def _metadata(annotation: Any, found: Iterable[Any] = ()) -> Iterator[Any]:
    yield from found
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _metadata(part)
