"""The configuration that a folder was begun with beside today's: keys that came later, and what differs."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from prefine.config.sections import RunConfig, Section


def with_new_defaults(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the keys that did not exist when they were written, which therefore had their defaults."""
    models = {
        name: list(_sections(field.annotation)) for name, field in RunConfig.model_fields.items()
    }
    return {name: _filled(value, models.get(name, [])) for name, value in sections.items()}


def config_diff(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ: the path of each value, and the two values."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= config_diff(before, after, f"{prefix}{name}.")
        elif before != after:
            found[prefix + name] = (before, after)
    return found


def _filled(value: Any, models: list[type[BaseModel]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    filled = dict(value)
    for model in models:
        for name, field in model.model_fields.items():
            if name in filled:
                filled[name] = _filled(filled[name], list(_sections(field.annotation)))
            elif not field.is_required():
                filled[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return filled


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections among what an annotation allows; components have no keys of their own, only options."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            yield one
