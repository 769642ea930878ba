"""Prompts, completions and pairs from files, the hub, or rows in memory, in any layout that is known."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from prefine.api.components import component_of
from prefine.config import Component
from prefine.records import Completion, PreferencePair, Prompt
from prefine.store import entries
from prefine.store.layouts.base import Row
from prefine.store.screen import Screen
from prefine.store.sources import read, shaped

Source: TypeAlias = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""A path or pattern, a source as in YAML (`{"name": "hub", "path": …}`), or rows: dicts, a `datasets.Dataset`."""


def read_prompts(source: Source, *, strict: bool = False) -> list[Prompt]:
    """The prompts of a source; other columns become metadata.

    Args:
        source: A path, a mapping as in YAML, or rows.
        strict: Refuse what would be set aside with a warning: repeated and empty prompts.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed; the message has its place and the remedy.
    """
    screen = Screen(strict=strict)
    prompts = list(entries.prompts(_rows(source, "prompts"), screen))
    _warn(screen)
    return prompts


def read_completions(source: Source, *, strict: bool = False) -> tuple[list[Prompt], list[Completion]]:
    """The prompts of a source, and all their completions, which name their prompt by `prompt_id`.

    Args:
        source: A path, a mapping as in YAML, or rows.
        strict: Refuse what would be set aside with a warning.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed.
    """
    screen = Screen(strict=strict)
    groups = list(entries.completions(_rows(source, "completions"), screen))
    _warn(screen)
    return [prompt for prompt, _ in groups], [completion for _, found in groups for completion in found]


def read_pairs(source: Source, *, strict: bool = False) -> list[PreferencePair]:
    """The preference pairs of a source.

    Args:
        source: A path, a mapping as in YAML, or rows.
        strict: Refuse what would be set aside with a warning: repeated, empty and identical answers, ties.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed.
    """
    screen = Screen(strict=strict)
    pairs = list(entries.pairs(_rows(source, "pairs"), screen))
    _warn(screen)
    return pairs


def _rows(source: Source, where: str) -> Iterator[Row]:
    if isinstance(source, str | Path):
        return read(Component.model_validate({"name": "file", "path": str(source)}), where=where)
    if isinstance(source, Mapping):
        return read(component_of(source, where=where), where=where)
    return shaped(Row(f"row {number}", dict(row)) for number, row in enumerate(source))


def _warn(screen: Screen) -> None:
    for note in screen.notes():
        warnings.warn(note, stacklevel=3)
