"""The components that a configuration names, by their config paths."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from prefine.config.base import Component, Section, marks_of
from prefine.config.components import INSIDE, Kind, Nested, in_full
from prefine.config.sections import RunConfig
from prefine.config.training import TrainConfig


def components(config: RunConfig) -> Iterator[tuple[str, Kind, Component]]:
    """Yield every component that a configuration names, with its path and kind."""
    for path, kind, component in outer_components(config):
        yield from _with_nested(path, kind, component)


def outer_components(section: Section, prefix: str = "") -> Iterator[tuple[str, Kind, Component]]:
    """Yield the same without those in the options of others, which these bind themselves."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from outer_components(value, f"{prefix}{name}.")
        named = {prefix + name: value}
        if isinstance(value, tuple):
            named = {f"{prefix}{name}.{index}": one for index, one in enumerate(value)}
        if isinstance(section, TrainConfig) and name == "reference":
            # Without the weights, which are no options of the models.
            named = {one.where: one.model for one in section.references}
        for mark in dict.fromkeys(marks_of(field, Nested)):
            for path, one in named.items():
                if isinstance(one, Component):
                    kind = mark.kind
                    if isinstance(section, TrainConfig) and kind == "regularizer":
                        kind = section.regularizer_kind
                    yield path, kind, one


def value_at(values: Any, path: Sequence[str]) -> Any:
    """Return the value at a path of mappings and lists; None if there is none."""
    for name in path:
        if isinstance(values, Mapping):
            values = values.get(name)
        elif isinstance(values, list) and name.isdigit() and int(name) < len(values):
            values = values[int(name)]
        else:
            return None
    return values


def _with_nested(
    path: str, kind: Kind, component: Component
) -> Iterator[tuple[str, Kind, Component]]:
    """Yield a component and those in its options: a judge's model, the losses inside a loss."""
    yield path, kind, component
    option, inner_kind = INSIDE.get(kind, ("", kind))
    value = component.options.get(option)
    items = {f"{path}.{option}": value}
    if isinstance(value, list | tuple):
        items = {f"{path}.{option}.{index}": item for index, item in enumerate(value)}
    for inner_path, item in items.items():
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            inner = Component.model_validate(dict(item))
            yield from _with_nested(inner_path, inner_kind, inner)


def component_at(path: Sequence[str], value: str) -> dict[str, Any] | None:
    """Return the component that a bare word at a config path stands for; None if none does."""
    models: list[type[Section]] = [RunConfig]
    kind: Kind | None = None
    for name in path:
        field = next((m.model_fields[name] for m in models if name in m.model_fields), None)
        if field is None:
            inside = INSIDE.get(kind) if kind else None
            kind = inside[1] if inside and inside[0] == name else None
            models = []
            continue
        kind = next((mark.kind for mark in marks_of(field, Nested)), None)
        models = [
            one
            for one in (field.annotation, *get_args(field.annotation))
            if isinstance(one, type) and issubclass(one, Section)
        ]
    if kind is not None:
        full: dict[str, Any] = in_full(kind, value)
        return full
    return {"name": value} if any("name" in model.model_fields for model in models) else None
