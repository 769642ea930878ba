"""Configuration files: strict YAML, `--set` overrides, and messages that name the key and the nearest known one."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from prefine.config.components import describe, places_of, suggest
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.secrets import refuse_secrets


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain words: 1e-6 is a number, "on" and 1:30 are words, a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, refusing a key that was there before."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} appears twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$",
        "-+.0123456789",
    ),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


_MOST_VALUES = 100_000


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: It is not valid YAML; the message has line and column.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        if _expanded_size(value, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases (*name) stand for more than {_MOST_VALUES:,} values")
    # An explicit tag such as `!!bool maybe` fails in the loader's own tables.
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    return value


def _expanded_size(value: Any, known: dict[int, int]) -> int:
    """How many values a YAML value holds when every alias is written out; each one is visited once."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        items = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded_size(item, known) for item in items)
    elif known[id(value)] == 0:
        raise ValueError("an alias (*name) contains itself")
    return known[id(value)]


def load(
    path: Path, *, overrides: Sequence[str] = (), run_dir: str | Path | None = None
) -> RunConfig:
    """The configuration of a file, with `--set a.b=value` applied and everything but the components checked.

    Raises:
        ConfigError: The file is missing or not valid, or a key or value is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such configuration file; `prefine config schema` shows what one holds"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a UTF-8 text file: {error}") from error
    values = parse_yaml(text, where=str(path))
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected sections such as policy: and train:, found {type(values).__name__}"
        )
    for override in overrides:
        _set(values, override)
    refuse_secrets(values)
    if run_dir is not None:
        values["run_dir"] = str(run_dir)
    return validate(values, where=str(path))


def validate(values: Mapping[str, Any], *, where: str) -> RunConfig:
    """A configuration from plain values.

    Raises:
        ConfigError: With one line for every problem: path, what is wrong, the value, the nearest
            known key.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = describe(
            [e for e in error.errors() if e["type"] != "extra_forbidden"], ""
        ).splitlines()
        for problem in error.errors():
            if problem["type"] == "extra_forbidden":
                *parents, key = places_of(problem)
                known = sorted(_section(parents).model_fields)
                lines.append(f"{'.'.join([*parents, key])}: unknown key; {suggest(key, known)}")
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _section(path: list[str]) -> type[BaseModel]:
    """The section at a config path; where a union is on the way, its model."""
    section: type[BaseModel] = RunConfig
    for name in path:
        if name in section.model_fields:
            found = _model_in(section.model_fields[name].annotation)
            section = found or section
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for part in get_args(annotation) if (m := _model_in(part))), None)


def _set(values: dict[str, Any], override: str) -> None:
    """Apply one `a.b.c=value`; the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(
            f"--set {override!r}: expected section.key=value, such as train.loss.beta=0.05"
        )
    *parents, key = path.split(".")
    place: Any = values
    for number, name in enumerate(parents):
        at = _key_in(place, name)
        if at is None or (isinstance(place, dict) and place.get(at) is None):
            if at is None:
                raise ConfigError(
                    f"--set {override!r}: {'.'.join(parents[:number])} has no item {name}"
                )
            place[at] = {}
        if not isinstance(place[at], dict | list):
            raise ConfigError(
                f"--set {override!r}: {'.'.join(parents[: number + 1])} is {place[at]!r}, not a "
                "section"
            )
        place = place[at]
    at = _key_in(place, key)
    if at is None:
        raise ConfigError(f"--set {override!r}: {'.'.join(parents)} has no item {key}")
    place[at] = parse_yaml(text, where=f"--set {path}")


def _key_in(place: Any, name: str) -> str | int | None:
    """The key of a section, or the number of an item of a list; None where the list has no such item."""
    if isinstance(place, dict):
        return name
    return int(name) if name.isdecimal() and int(name) < len(place) else None
