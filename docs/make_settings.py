"""Write docs/settings.md, every key of a configuration, from the code: `make docs`."""

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from prefine.config.base import Component, Section, marks_of
from prefine.config.components import TABLES, Kind, Nested, lookup
from prefine.config.marks import FREE, TRANSPORT, MayGrow
from prefine.config.sections import RunConfig
from prefine.losses.cards.catalogue import allowed, as_yaml
from prefine.losses.cards.docstrings import parse
from prefine.models.openai.usage import TokenPrices
from prefine.schedules import Schedule

PAGE = Path(__file__).parent / "settings.md"
HEAD = """\
# All settings

`make docs` writes this page from the code. [Configuration](configuration.md) explains how a configuration is written;
this page lists every key with its default and what it takes. A key without a default is required where its section is.

A default of – is `null`. **Begun run** says whether a key may still change once a stage that reads it has begun: *free*
changes no result, *may grow* extends the run (for a component: only the options that are named). How a server is reached
(`base_url`, `concurrency`, `prices` and the like) may always change. All others are fixed: use another `--run-dir`, or
see [the run folder](run-folder.md).

A *component* is `{name: …, option: …}`. Losses and regularizers have [a page of their own](losses.md), and so have
[metrics](metrics.md).
"""  # noqa: E501
KINDS: dict[Kind, str] = {
    "backend": "Models",
    "bridger": "Bridgers that compute",
    "source": "Sources of data",
    "strategy": "Strategies",
    "judge": "Judges",
    "selector": "Selectors",
    "step_source": "Step sources",
    "reward_loss": "Losses of reward models",
    "gold": "Gold scores",
}
# Set by the run, not by users.
GIVEN = {"selector": {"seed"}, "strategy": {"first_slot_bias"}}
TOLD = {"config_path"}
WORDS: dict[Any, str] = {
    bool: "true or false",
    str: "text",
    Path: "a file or folder",
    Schedule: "a schedule",
    TokenPrices: "prices",
}


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, "## Sections\n", *_section(RunConfig, "")]
    for kind, title in KINDS.items():
        parts.append(f"## {title}\n")
        for name, target in TABLES[kind].items():
            # A bridger may be any model that answers conversations; those stand above.
            if kind != "bridger" or target not in TABLES["backend"].values():
                parts += _component(kind, name)
    return "\n".join(parts)


def _section(section: type[Section], path: str) -> Iterator[str]:
    """Yield a table of a section's keys, and then those of the sections in it."""
    inner: dict[str, type[Section]] = {}
    yield f"### {path or 'The file'}\n"
    yield f"{inspect.cleandoc(section.__doc__ or '')}\n"
    yield "| key | default | takes | begun run |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        if (found := _inner(field.annotation)) is not None:
            inner[f"{path}.{name}".lstrip(".")] = found
        cells = (f"`{name}`", _default(field), _takes(field.annotation, field), _change(field))
        yield _row(*cells)
    yield ""
    for place, one in inner.items():
        yield from _section(one, place)


def _component(kind: Kind, name: str) -> Iterator[str]:
    """Yield what a component is, and a table of its options."""
    component = lookup(kind, name, where="docs")
    function: Callable[..., Any] = component.__init__ if inspect.isclass(component) else component
    written, hints = parse(component.__doc__), get_type_hints(function, include_extras=True)
    options = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.name not in GIVEN.get(kind, set()) | TOLD
    ]
    yield f"### {name}\n"
    first = (component.__doc__ or "").strip().partition("\n\n")[0]
    yield " ".join(first.split()) + "\n"
    if not options:
        yield "It has no options.\n"
        return
    yield "| option | default | takes | |"
    yield "|---|---|---|---|"
    for option in options:
        required = option.default is option.empty
        default = "required" if required else _value(option.default)
        takes = _takes(hints.get(option.name, Any))
        yield _row(f"`{option.name}`", default, takes, written.arguments.get(option.name, ""))
    yield ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _inner(annotation: Any) -> type[Section] | None:
    """Return the section that a key holds, if it holds one."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next((one for part in get_args(annotation) if (one := _inner(part))), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Section):
        return "its defaults"
    component = isinstance(field.default, Component)
    return _value(field.default.model_dump() if component else field.default)


def _value(value: Any) -> str:
    return "–" if value is None else f"`{as_yaml(value)}`"


def _takes(hint: Any, field: FieldInfo | None = None) -> str:
    """Say in words which values are allowed."""
    if field is not None and (nested := marks_of(field, Nested)):
        several = ["a list of these"] if _holds_list(hint) else []
        return " or ".join([*_literals(hint), nested[0].kind.replace("_", " "), *several])
    marks = [*getattr(hint, "__metadata__", ()), *(field.metadata if field else ())]
    inner = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    origin = get_origin(inner)
    if any(isinstance(mark, Nested) for mark in marks):
        return "model"
    if inner in WORDS:
        return WORDS[inner]
    if origin in (Union, types.UnionType):
        parts = [_takes(part) for part in get_args(inner) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin in (list, tuple):
        return f"a list: {_takes(get_args(inner)[0])}"
    if _inner(inner) is not None:
        return "a section, below"
    if origin is dict:
        return "keys with values"
    # A seed is below 2**53 because readers of JSON keep no larger number.
    bounds = [mark for mark in marks if "lt=9007199254740992" not in repr(mark)]
    return allowed(Annotated[(inner, *bounds)] if bounds else inner) or "number"


def _holds_list(hint: Any) -> bool:
    """Return True if a list is one of several things that may be written."""
    parts = [
        get_args(part)[0] if hasattr(part, "__metadata__") else part for part in get_args(hint)
    ]
    return get_origin(hint) is not tuple and any(get_origin(part) is tuple for part in parts)


def _literals(hint: Any) -> list[str]:
    return [
        f"`{value}`"
        for part in get_args(hint)
        if get_origin(part) is Literal
        for value in get_args(part)
    ]


def _change(field: FieldInfo) -> str:
    if grows := marks_of(field, MayGrow):
        options = ", ".join(f"`{option}`" for option in grows[0].options)
        return f"may grow: {options}" if options else "may grow"
    return "free" if FREE in field.metadata or TRANSPORT in field.metadata else ""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(PAGE)


if __name__ == "__main__":
    main()
