"""The settings that decide what is computed, and which of them a begun run may still change."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from prefine.config.base import Component, Section, marks_of
from prefine.config.filled import with_options
from prefine.config.marks import FREE, LATER, TRANSPORT, Mark, MayGrow, Was
from prefine.config.named import outer_components, value_at
from prefine.config.sections import Connection, RunConfig

S = TypeVar("S", bound=Section)

# What each stage reads of the configuration. A section may still change while no stage that reads
# it has begun.
STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "sample": ("policy", "prompts", "completions", "sample"),
    "rank": ("rank",),
    "pair": ("pair", "pairs", "lists", "labels"),
    "bridge": ("bridge",),
    "train": ("policy", "bridge", "train"),
    "evaluate": ("evaluate",),
    "report": ("report",),
}
# Making pairs costs nothing, so this section may change until a later stage has worked on what it
# made.
_SETTLED_BY = {"pair": "train"}
RENDERED_HERE = ("hf", "served")
"""Backends whose prompts are rendered by prefine, with a date where the template writes one."""

_UNCOUNTED = frozenset({FREE, TRANSPORT})
_CONNECTION = frozenset(
    name for name, field in Connection.model_fields.items() if TRANSPORT in marks_of(field, Mark)
)


def fingerprinted(sections: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The settings that decide what is computed.

    Left out are settings that are marked as free, how servers are reached, and keys that came later
    and stand at their defaults. Keys that are missing, since an older version wrote the sections,
    count with their defaults.
    """
    found: dict[str, JsonValue] = _counted(with_new_defaults(sections), [RunConfig])
    return found


def refused_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], stages: Collection[str]
) -> list[str]:
    """The changes that a run does not allow once these stages have begun, as lines."""
    before = with_new_defaults(before)
    begun = {section for stage in stages for section in STAGE_SECTIONS.get(stage, ())}
    begun &= before.keys()
    begun -= {section for section, stage in _SETTLED_BY.items() if stage not in stages}
    return [
        f"{path}: {_show(old)} → {_show(new)}"
        for path, (old, new) in config_diff(before, with_new_defaults(now)).items()
        if path.split(".")[0] in begun and not _may_change(path, old, new)
    ]


def config_diff(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ: each path with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for path, (before, after) in differing_settings((old, new), prefix).items():
        found[path] = (before, after)
    return found


def differing_settings(
    configs: Sequence[Mapping[str, Any]], prefix: str = ""
) -> dict[str, tuple[Any, ...]]:
    """The settings in which any of several configurations differ: each path with all values.

    What a configuration does not have is None there.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name in sorted(set().union(*configs)):
        values = tuple(config.get(name) for config in configs)
        inner = [value for value in values if isinstance(value, dict)]
        if len(inner) == len(values):
            found |= differing_settings(inner, f"{prefix}{name}.")
        elif any(value != values[0] for value in values):
            found[prefix + name] = values
    return found


def with_new_defaults(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections, with defaults for the settings that did not exist when they were written."""
    return {
        name: _filled(value, _sections(_field_named(name, [RunConfig])))
        for name, value in sections.items()
    }


def with_begun_defaults(config: RunConfig, begun: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run that was begun under earlier defaults.

    A setting that nobody set, and whose default was another one when the run began, keeps that. So
    does the date in a chat template: it is that of the first day. A component that differs from the
    begun one only in that it states a default, or no longer does, is written as it was.

    Args:
        config: As it was read.
        begun: The sections that the run was begun with; empty for a new one.
    """
    for name in begun.keys() & RunConfig.model_fields.keys():
        section = getattr(config, name)
        if not isinstance(section, Section) or not isinstance(begun[name], Mapping):
            continue
        kept = {
            key: was.default
            for key, field in type(section).model_fields.items()
            for was in marks_of(field, Was)
            if key not in section.model_fields_set and begun[name].get(key) == was.default
        }
        config = config.model_copy(update={name: section.model_copy(update=kept)})
    config = _with_components(config, begun)
    config = _with_anchors(config, begun.get("train"))
    policy = begun.get("policy")
    if isinstance(policy, Mapping) and "date" in policy:
        return with_date(config, policy["date"])
    return config


def _with_components(config: RunConfig, begun: Mapping[str, Any]) -> RunConfig:
    """The configuration with components written as in the begun one where these are the same."""
    if not begun:
        return config
    # Keys of what is computed are made of what is written.
    values = config.resolved()
    for path, kind, component in outer_components(config):
        now, was = (value_at(one, path.split(".")) for one in (values, begun))
        if not isinstance(was, Mapping) or was == now or was.get("name") != component.name:
            continue
        if with_options(kind, was, where=path) == with_options(kind, now, where=path):
            written = type(component).model_validate(dict(was))
            config = _with_component(config, path.split("."), written)
    return config


def _with_component(section: S, path: Sequence[str], component: Component) -> S:
    """The section with a component at a path."""
    name, *inside = path
    found = getattr(section, name)
    if isinstance(found, Section):
        return section.model_copy(update={name: _with_component(found, inside, component)})
    if isinstance(found, tuple):
        one = int(inside[0])
        return section.model_copy(update={name: (*found[:one], component, *found[one + 1 :])})
    return section.model_copy(update={name: component})


def _with_anchors(config: RunConfig, begun: Any) -> RunConfig:
    """The configuration, in which an automatic budget states that it looks for anchors.

    So it is for completions that are ranked; a training that was begun when such a budget pulled at
    chosen answers alone goes on with them.
    """
    train, regularizer = config.train, config.train.regularizer
    if regularizer is None or train.regularizer_weight != "auto" or config.rank is None:
        return config
    if regularizer.options.keys() & {"anchor", "anchors"}:
        return config
    if isinstance(begun, Mapping) and begun.get("regularizer_weight") == "auto":
        was = begun.get("regularizer")
        if isinstance(was, Mapping) and "anchor" not in was:
            return config
    stated = Component(name=regularizer.name, **regularizer.options, anchor="auto")
    changed = train.model_copy(update={"regularizer": stated})
    return config.model_copy(update={"train": changed})


def with_date(config: RunConfig, date: str) -> RunConfig:
    """The configuration with the day that the policy's chat template writes, if none is set."""
    policy = config.policy
    if "date" in policy.options or policy.name not in RENDERED_HERE:
        return config
    dated = Component(name=policy.name, **policy.options, date=date)
    return config.model_copy(update={"policy": dated})


def _filled(value: Any, models: Collection[type[BaseModel]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    filled = dict(value)
    for model in models:
        for name, field in model.model_fields.items():
            if name in filled:
                filled[name] = _filled(filled[name], _sections(field))
            elif not field.is_required():
                filled[name] = _default(field)
    return filled


def _default(field: FieldInfo) -> Any:
    return to_jsonable_python(field.get_default(call_default_factory=True))


def _sections(field: FieldInfo | None) -> list[type[BaseModel]]:
    """The sections that a field allows; components have options and no fields of their own."""
    annotation = None if field is None else field.annotation
    return [
        one
        for one in (annotation, *get_args(annotation))
        if isinstance(one, type) and issubclass(one, Section)
    ]


def _field_named(name: str, models: Iterable[type[BaseModel]]) -> FieldInfo | None:
    """The field of this name; None for an option of a component, and for an unknown key."""
    return next((m.model_fields[name] for m in models if name in m.model_fields), None)


def _counted(value: Any, models: Collection[type[BaseModel]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    found = {}
    for name, inner in value.items():
        field = _field_named(name, models)
        if field is None:
            counts = name not in _CONNECTION
        else:
            marks = marks_of(field, Mark)
            at_later_default = LATER in marks and inner == _default(field)
            counts = not _UNCOUNTED.intersection(marks) and not at_later_default
        if counts:
            found[name] = _counted(inner, _sections(field))
    return found


def _may_change(path: str, old: Any, new: Any) -> bool:
    """Return True if a setting is free, transport, or may grow and has grown."""
    models: Collection[type[BaseModel]] = [RunConfig]
    may_grow: set[str] = set()
    for name in path.split("."):
        field = _field_named(name, models)
        grows = name in may_grow
        may_grow, models = set(), _sections(field)
        if field is None:
            if name in _CONNECTION:
                return True
            continue
        if _UNCOUNTED.intersection(marks_of(field, Mark)):
            return True
        for mark in marks_of(field, MayGrow):
            may_grow |= set(mark.options)
            grows |= not mark.options
    if grows and isinstance(old, list) and isinstance(new, list):
        return all(item in new for item in old)
    # Options of components are checked later, so what should be a number may still be anything.
    if not grows or not isinstance(old, int | float):
        return False
    return new is None or (isinstance(new, int | float) and new >= old)


def _show(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
