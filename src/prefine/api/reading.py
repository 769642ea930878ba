"""Prompts, completions and pairs from files, the hub, or rows in memory, in any known layout."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prefine.api.arguments import explained
from prefine.api.components import component_of
from prefine.api.frames import Records, has_splits, rows_of
from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import read, shaped
from prefine.errors import ConfigError, DataError
from prefine.records import Completion, PreferencePair, Prompt

if TYPE_CHECKING:
    from pandas import DataFrame

PromptLike: TypeAlias = str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Prompt
"""A text, messages, a row with a prompt, or a `Prompt`."""
Source: TypeAlias = "str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]] | DataFrame"
"""A path or pattern, `hub:org/name`, a source as in YAML, or rows: a DataFrame, a
`datasets.Dataset`, a list of dicts.
"""

PairsLike: TypeAlias = "Source | Iterable[PreferencePair]"
"""`PreferencePair`s, or what `read_pairs` reads."""


@explained
def read_prompts(source: Source, *, strict: bool = False) -> Records[Prompt]:
    """Read the prompts of a source; other columns become metadata.

    Args:
        source: A path, `hub:org/name`, a mapping as in YAML, or rows: a DataFrame, a
            `datasets.Dataset`, a list of dicts.
        strict: Refuse what would be set aside with a warning: repeated and empty prompts.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed; the message has its place and the remedy.
    """
    report = ImportReport(strict=strict)
    prompts = Records(entries.prompts(_rows(source, "prompts"), report))
    warn(report.notes())
    return prompts


@explained
def read_completions(
    source: Source, *, strict: bool = False
) -> tuple[Records[Prompt], Records[Completion]]:
    """Read the prompts of a source and all their completions, which have a `prompt_id`.

    Args:
        source: A path, `hub:org/name`, a mapping as in YAML, or rows: a DataFrame, a
            `datasets.Dataset`, a list of dicts.
        strict: Refuse what would be set aside with a warning.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed.
    """
    report = ImportReport(strict=strict)
    groups = list(entries.completions(_rows(source, "completions"), report))
    warn(report.notes())
    return Records(prompt for prompt, _ in groups), Records(
        completion for _, found in groups for completion in found
    )


@explained
def read_pairs(source: Source, *, strict: bool = False) -> Records[PreferencePair]:
    """Read the preference pairs of a source.

    Args:
        source: A path, `hub:org/name`, a mapping as in YAML, or rows: a DataFrame, a
            `datasets.Dataset`, a list of dicts.
        strict: Refuse what would be set aside with a warning: repeated, empty and identical
            answers, ties.

    Raises:
        ConfigError: There is no such source.
        DataError: A row is malformed.
    """
    report = ImportReport(strict=strict)
    pairs = Records(entries.pairs(_rows(source, "pairs"), report))
    warn(report.notes())
    return pairs


def _rows(source: Source, where: str) -> Iterator[SourceRow]:
    if isinstance(source, str | Path) or (
        isinstance(source, Mapping) and "name" in source and not has_splits(source)
    ):
        return read(component_of("source", source, where=where), where=where)
    if isinstance(source, Mapping) and not has_splits(source):
        raise ConfigError(
            f"{where}: expected a path, a list of rows or a source with a name; put one row in "
            "brackets"
        )
    rows = rows_of(source, what=where)
    return shaped(SourceRow(f"row {number}", dict(row)) for number, row in enumerate(rows))


def prompts_of(prompts: Iterable[PromptLike]) -> list[Prompt]:
    """Texts, messages, rows and `Prompt`s as distinct `Prompt`s, in order.

    Raises:
        ConfigError: It is one text or one row instead of a list.
        DataError: A prompt is malformed.
    """
    if isinstance(prompts, str | Mapping):
        raise ConfigError(
            f"prompts: expected a list, got one {type(prompts).__name__}; write [{prompts!r:.40}]"
        )
    found: dict[str, Prompt] = {}
    repeated = 0
    for number, value in enumerate(rows_of(prompts, what="prompts")):
        prompt = _prompt_of(value, f"prompt {number}")
        repeated += prompt.id in found
        found.setdefault(prompt.id, prompt)
    if repeated:
        warnings.warn(f"{repeated} prompts are repeated and count once", stacklevel=4)
    return list(found.values())


def _prompt_of(value: PromptLike, where: str) -> Prompt:
    if isinstance(value, Prompt):
        return value
    row = dict(value) if isinstance(value, Mapping) else {"prompt": value}
    (prompt,) = entries.prompts(shaped([SourceRow(where, row)]), ImportReport(strict=True))
    return prompt


def pairs_of(pairs: PairsLike) -> Iterator[PreferencePair]:
    """Pairs as they are, or from a source of a known layout; repeated ones count once."""
    if isinstance(pairs, str | Path | Mapping) and not has_splits(pairs):
        yield from read_pairs(pairs)
        return
    items: Iterator[Any] = rows_of(pairs, what="pairs")
    first = next(items, None)
    if first is None:
        return
    everything = chain([first], items)
    if not isinstance(first, PreferencePair):
        report = ImportReport()
        yield from entries.pairs(_rows(map(_checked_row, everything), "pairs"), report)
        warn(report.notes())
        return
    seen: set[str] = set()
    repeated = 0
    for pair in everything:
        if not isinstance(pair, PreferencePair):
            raise DataError(
                f"pairs: expected PreferencePairs only, got a {type(pair).__name__} among them"
            )
        if pair.id in seen:
            repeated += 1
        else:
            seen.add(pair.id)
            yield pair
    if repeated:
        warnings.warn(f"{repeated} pairs are repeated and count once", stacklevel=4)


def _checked_row(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    raise DataError(
        f"pairs: expected PreferencePairs or rows, got a {type(item).__name__}; see read_pairs"
    )


def warn(notes: Iterable[str]) -> None:
    """Show each note as a warning in the line of the user's that called the API."""
    for note in notes:
        # Past this function, the function of the API and what checks its arguments.
        warnings.warn(note, stacklevel=4)
