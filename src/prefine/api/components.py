"""The models, judges, settings and journals that a user may give → what the stages work with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from pydantic import BaseModel

from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import AnswerLog
from prefine.config.base import Component
from prefine.config.checking import checked
from prefine.config.components import Kind, in_full
from prefine.errors import ConfigError
from prefine.judges.protocol import ComputedJudge
from prefine.judging.choose import as_judge, make_judge
from prefine.judging.protocol import Judge
from prefine.models.capabilities import backend_of
from prefine.models.protocol import Samples
from prefine.run.journal import Journal

S = TypeVar("S", bound=BaseModel)


class HasPath(Protocol):
    """Something that lies in a folder, such as what `train` returns."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...


Named: TypeAlias = str | Mapping[str, Any] | Callable[..., Any]
"""A component: its name, a mapping of its name and options as in YAML, or a callable."""
Model: TypeAlias = str | Path | Mapping[str, Any] | HasPath
"""A model: a hub id or folder, "playground", a backend as in YAML, or what `train` returned."""
JudgeLike: TypeAlias = str | Mapping[str, Any] | Callable[..., Any] | Judge | ComputedJudge
"""A judge: as in YAML, a function `(prompt, completion) -> float`, or an object that judges."""


def component_of(kind: Kind, value: Named | Path | Component, *, where: str) -> Component:
    """The component that a name, a mapping or a callable says.

    Raises:
        ConfigError: It is none of them.
    """
    return validated(Component, in_full(kind, value), where=where)


def model_component(model: Model, *, where: str) -> Component:
    """A hub id or folder is the backend `hf`.

    Raises:
        ConfigError: It is neither a name, a path, a mapping nor what `train` returns.
    """
    found = getattr(model, "path", model)
    if not isinstance(found, str | Path | Mapping):
        raise ConfigError(
            f"{where}: expected a hub id, a folder, a backend as in YAML or what train() returns, "
            f"got a {type(model).__name__}; save a model with save_pretrained and give the folder"
        )
    return component_of("backend", found, where=where)


def sampler_of(model: Model, *, where: str) -> Samples:
    """The backend, its options checked."""
    return backend_of(model_component(model, where=where), Samples, where=where)


def judge_of(judge: JudgeLike, *, where: str = "judge") -> tuple[str, Judge]:
    """A name for people, and the judge; `where` is the argument's name, for messages.

    Raises:
        ConfigError: It is no judge.
    """
    if isinstance(judge, str | Mapping):
        component = component_of("judge", judge, where=where)
        made = make_judge(component, where=where)
        return getattr(made, "label", component.name), made
    name = str(getattr(judge, "label", None) or getattr(judge, "__name__", type(judge).__name__))
    return name, as_judge(judge, what=f"{where}: {name}")


def validated(kind: type[S], values: Any, *, where: str) -> S:
    """Validate a mapping as a section of the configuration.

    Raises:
        ConfigError: A key is unknown or a value out of its bounds.
    """
    if isinstance(values, kind):
        return values
    return checked(kind, dict(values) if isinstance(values, Mapping) else values, where=where)


@contextmanager
def answer_log(journal: str | Path | None) -> Iterator[AnswerLog]:
    """The journal in a file; without one, answers are kept in this process."""
    if journal is None:
        yield MemoryLog()
    else:
        with closing(Journal(Path(journal))) as log:
            yield log
