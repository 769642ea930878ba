"""Configuration files: strict YAML, `--set` overrides, and messages that name the key."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml
from pydantic import ValidationError

from prefine.config.named import component_at
from prefine.config.sections import RunConfig
from prefine.errors import ConfigError
from prefine.secrets import refuse_secrets


class _Loader(yaml.SafeLoader):
    """YAML 1.2: 1e-6 is a number, "on" and 1:30 are strings, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; raise ConstructorError if a key is repeated or no scalar."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                problem = "a key must be a word"
            elif key in seen:
                problem = f"key {key!r} appears twice"
            else:
                seen.add(key)
                continue
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
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
    """Return the value of a YAML text; `where` names it in messages.

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
        said = str(error).replace('"<unicode string>", ', "")
        raise ConfigError(f"{where}: not valid YAML: {said}{_remedy(said, text)}") from error
    return value


def _remedy(said: str, text: str) -> str:
    """Return what to do about what the parser said, on a line of its own; may be empty."""
    if text.lstrip().startswith("{") and "expected '<document start>'" in said:
        remedy = "this looks like JSON Lines, which are data; `prefine init` writes a configuration"
    elif "character '\\t'" in said:
        remedy = "indent by spaces; YAML takes no tab there"
    elif "mapping values are not allowed here" in said or "expected <block end>" in said:
        remedy = "indent the keys of a section alike, and quote a text that holds ': '"
    elif "appears twice" in said:
        remedy = "write it once"
    else:
        return ""
    return f"\n{remedy}"


def _kind_of(value: Any) -> str:
    """Return what a file holds that has no sections, with what is likely meant."""
    if value is None:
        return "nothing; `prefine init` writes a configuration"
    if isinstance(value, str):
        return "a text; a key needs a colon and a space, such as `run_dir: runs/first`"
    return f"{type(value).__name__}; `prefine init` writes a configuration"


def _expanded_size(value: Any, known: dict[int, int]) -> int:
    """Return the number of values with every alias written out; `known` has those counted."""
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
    """Return the configuration of a file with overrides `a.b=value` applied.

    Everything is checked except the components' options.

    Raises:
        ConfigError: The file is missing or not valid, or a key or value is not allowed.
    """
    values = read_values(path)
    if "sweep" in values:
        raise ConfigError(
            f"{path}: this configuration is a sweep; run `prefine sweep {path}`, or take its "
            "section sweep out"
        )
    return with_overrides(values, overrides, run_dir, where=str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file as plain values.

    Raises:
        ConfigError: The file is missing, or is no YAML with sections.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.absolute()}: no such configuration file; `prefine init` writes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a UTF-8 text file: {error}") from error
    values = parse_yaml(text, where=str(path))
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected sections such as policy: and train:, found {_kind_of(values)}"
        )
    return values


def with_overrides(
    values: dict[str, Any], overrides: Sequence[str], run_dir: str | Path | None, *, where: str
) -> RunConfig:
    """Return the configuration of plain values, which are changed, with overrides applied.

    Raises:
        ConfigError: A key or value is not allowed.
    """
    for override in overrides:
        _set(values, override)
    refuse_secrets(values)
    if run_dir is not None:
        values["run_dir"] = str(run_dir)
    return validate(values, where=where)


def validate(values: Mapping[str, Any], *, where: str) -> RunConfig:
    """Return a configuration from plain values.

    Raises:
        ConfigError: There are problems, one line each: path, problem, value, nearest known key.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        from prefine.config.messages import describe

        problems = indent(describe(error, "", RunConfig), "  ")
        raise ConfigError(f"{where}:\n{problems}") from error


def _set(values: dict[str, Any], override: str) -> None:
    """Apply one override `a.b.c=value`; the value is YAML."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"--set {override!r}: expected section.key=value, such as train.loss.beta=0.05"
        )
    place: Any = values
    for number, name in enumerate(keys):
        if not isinstance(place, dict | list):
            raise ConfigError(
                f"--set {override!r}: {'.'.join(keys[:number])} is {place!r}, not a section"
            )
        key: Any = _key_in(place, name)
        if key is None:
            raise ConfigError(f"--set {override!r}: {'.'.join(keys[:number])} has no item {name}")
        if number == len(keys) - 1:
            place[key] = parse_yaml(text, where=f"--set {path}")
        elif isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        elif isinstance(place[key], str):
            place[key] = component_at(keys[: number + 1], place[key]) or place[key]
        place = place[key]


def _key_in(place: Any, name: str) -> str | int | None:
    """Return the key of a section or the index in a list; None if the list has no such item."""
    if isinstance(place, dict):
        return name
    return int(name) if name.isdecimal() and int(name) < len(place) else None
