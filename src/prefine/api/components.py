"""What a user may give for a model, a judge or a setting → the component that a configuration would name."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from prefine.config import Component
from prefine.errors import ConfigError
from prefine.judging.base import Judge
from prefine.judging.choose import make_judge
from prefine.models.base import Sampler
from prefine.registry import TABLES, describe

S = TypeVar("S", bound=BaseModel)
Named: TypeAlias = str | Mapping[str, Any]
"""A component: its name, or a mapping of its name and options as in YAML."""
Model: TypeAlias = str | Path | Mapping[str, Any]
"""A model: a hub id or folder, "playground", or a backend as in YAML."""
JudgeLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | Judge
"""A judge: as in YAML, a function `(prompt, completion) -> float` of a module, or an object that is one."""


def component_of(value: Named, *, where: str) -> Component:
    """A name or a mapping as a component.

    Raises:
        ConfigError: It is neither.
    """
    return validated(Component, {"name": value} if isinstance(value, str) else value, where=where)


def model_component(model: Model, *, where: str) -> Component:
    """A hub id or folder is the backend `hf`."""
    if isinstance(model, Mapping):
        return component_of(model, where=where)
    if str(model) in TABLES["backend"]:
        return Component(name=str(model))
    return Component.model_validate({"name": "hf", "path": str(model)})


def sampler_of(model: Model, *, where: str) -> Sampler:
    """The backend, its options checked."""
    sampler: Sampler = model_component(model, where=where).resolve("backend", where=where)()
    return sampler


def judge_of(judge: JudgeLike) -> tuple[str, Judge]:
    """A name for people, and the judge."""
    if inspect.isfunction(judge):
        name = f"{judge.__module__}:{judge.__qualname__}"
        if "<" in name:
            raise ConfigError(f"judge: {name} has no name to import it by; define the function at a module's top level")
        judge = name
    if isinstance(judge, str | Mapping):
        component = component_of(judge, where="judge")
        return component.name, make_judge(component, where="judge")
    if callable(getattr(judge, "judge", None)):
        own: Any = judge
        return getattr(own, "label", type(own).__name__), own
    raise ConfigError(f"judge: {judge!r} is no judge; give a name, a mapping, a function or an object with judge()")


def validated(kind: type[S], values: Any, *, where: str) -> S:
    """A section of the configuration from a mapping.

    Raises:
        ConfigError: A key is unknown or a value out of its bounds.
    """
    if isinstance(values, kind):
        return values
    try:
        return kind.model_validate(dict(values) if isinstance(values, Mapping) else values)
    except ValidationError as error:
        raise ConfigError(describe(error.errors(), where)) from error
