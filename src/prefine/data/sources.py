"""Sources of rows in our own columns: files, the embedded playground, a user's function."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from prefine.config.base import Component
from prefine.config.checking import checked
from prefine.config.components import options_model
from prefine.data.answer_texts import without_reasoning
from prefine.data.files import files_at, rows_in
from prefine.data.formats import Format
from prefine.data.layouts.prompts import put_aside
from prefine.data.layouts.protocol import PROMPT_NAMES, Layout, SourceRow, rest
from prefine.data.layouts.table import (
    BY_NAME,
    LayoutName,
    as_read,
    convert,
    is_as_written,
    recognise,
)
from prefine.errors import ConfigError, DataError, at_config_path
from prefine.reasoning import ReasoningInText

Columns = dict[str, str]
Limit = Annotated[int, Field(gt=0)]


def file(
    *,
    path: Path,
    format: Format | None = None,
    columns: Columns | None = None,
    layout: LayoutName = "auto",
    questions: Path | None = None,
    reasoning: ReasoningInText = "split",
    limit: Limit | None = None,
    config_path: str = "",
) -> Iterator[SourceRow]:
    """Yield the rows of JSON Lines, JSON (a list of objects), CSV, Parquet or Arrow files.

    Args:
        path: A file, a pattern such as data/*.jsonl, or a folder of parts; relative to the working
            directory.
        format: Needed only when the file's ending does not say it.
        columns: Our name → the file's name, for columns that are called otherwise there.
        layout: "auto" recognises it by the names of the columns of the first row.
        questions: The file of questions, for Arena-Hard answers that have only the question's id.
        reasoning: What becomes of <think>…</think> at the beginning of an answer: "split" makes it
            the answer's reasoning, which is not judged; "keep" leaves it in the text.
        limit: Take the first rows only; of prompts whose answers are rows, the first prompts.
        config_path: Of this source, for messages.

    Raises:
        ConfigError: There is no such file, or its format is unknown.
        DataError: A file is empty, or a row is not an object; the message has the line.
    """
    with at_config_path(config_path, "path"):
        files = files_at(path, format)
    return shaped(
        rows_in(files),
        columns=columns,
        layout=layout,
        questions=questions,
        reasoning=reasoning,
        limit=limit,
    )


def shaped(
    rows: Iterable[SourceRow],
    *,
    columns: Columns | None = None,
    layout: LayoutName = "auto",
    questions: Path | None = None,
    reasoning: ReasoningInText = "split",
    limit: Limit | None = None,
) -> Iterator[SourceRow]:
    """Convert rows of any layout to our own columns: prompt, completions, chosen, rejected.

    Args:
        rows: As they are in the source; nothing is read ahead, unless answers have to be grouped by
            prompt.
        columns: Our name → the source's name.
        layout: "auto" recognises it by the names of the columns of the first row.
        questions: The file of questions, for Arena-Hard answers that have only the question's id.
        reasoning: What becomes of <think>…</think> at the beginning of an answer: "split" makes it
            the answer's reasoning, which is not judged; "keep" leaves it in the text.
        limit: Take the first rows only; where a row is one answer, the first prompts, with all of
            their answers: all rows are read for them.

    Raises:
        ConfigError: The layout needs `questions`.
        DataError: A row is not what its layout says; or two layouts fit.
    """
    renamed = map(as_read, _renamed(rows, columns or {}))
    first = next(renamed, None)
    if first is None:
        return
    kind = recognise(first) if layout == "auto" else BY_NAME[layout]
    if kind.needs_questions and questions is None and "messages" not in first.values:
        raise ConfigError(
            f"{first.where}: the layout {kind.name} has no questions in it; name the file that has "
            "them with questions: path/to/question.jsonl"
        )
    known = {} if questions is None else dict(_questions(questions))
    converted = (_converted(kind, row, known, reasoning) for row in chain([first], renamed))
    # A row usually has all answers of its prompt. Where another row has more, merge them.
    merged = "completions" in first.values and "chosen" not in first.values
    if not kind.grouped and not merged:
        yield from islice(converted, limit)
        return
    from prefine.data.grouping import by_prompt

    yield from by_prompt(converted, limit) if kind.grouped else by_prompt(islice(converted, limit))


def _converted(
    layout: Layout, row: SourceRow, questions: Mapping[str, Any], reasoning: ReasoningInText
) -> SourceRow:
    converted = convert(layout, row, questions)
    if reasoning == "keep" or is_as_written(row.values):
        return converted
    return without_reasoning(converted)


def _questions(path: Path) -> Iterator[tuple[str, Any]]:
    # Only answers of Arena-Hard without their questions need it.
    from prefine.data.layouts.answers import question_of

    return (question_of(as_read(row)) for row in rows_in(files_at(path, None)))


def open_source(component: Component, *, where: str) -> Callable[[], Iterator[SourceRow]]:
    """Check the options of a configured source and return the function that reads its rows.

    A user's `module:function` may yield plain objects. It takes the options that it declares;
    `columns`, `layout`, `questions` and `limit` are ours where it does not.

    Raises:
        ConfigError: The source is unknown, or an option is.
    """
    if ":" not in component.name:
        bound: Callable[[], Iterator[SourceRow]] = component.resolve("source", where=where)
        return bound
    # Here and not above: most sources are ours.
    from prefine.data.own_sources import own_source

    return component.once("rows", lambda: own_source(component, where))


def read(component: Component, *, where: str) -> Iterator[SourceRow]:
    """Yield the rows of a configured source, in our own columns.

    Raises:
        ConfigError: The source or an option is unknown, or there is no such file.
        DataError: A row cannot be used.
    """
    return open_source(component, where=where)()


def read_files(
    files: list[tuple[Path, Format]], options: Mapping[str, Any], *, where: str
) -> Iterator[SourceRow]:
    """Yield the rows of several files as one source; `options` are those of `shaped`.

    Raises:
        ConfigError: An option is wrong, or there is no such file.
        DataError: A row cannot be used.
    """
    return shaped(rows_in(files), **shaping(options, where))


def shaping(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the options of `shaped`, and fill them in."""
    return dict(checked(options_model(shaped), dict(options), where=where))


def _renamed(rows: Iterable[SourceRow], columns: Columns) -> Iterator[SourceRow]:
    for row in rows:
        values = row.values
        for ours, theirs in columns.items():
            if theirs not in values:
                raise DataError(
                    f"{row.where}: no column {theirs!r} (mapped to {ours!r}); this row has "
                    f"{', '.join(sorted(values))}"
                )
        others = rest(values, *columns.values())
        for name in PROMPT_NAMES:
            if name in columns:
                others = put_aside(others, keep=name)
        renamed = {ours: values[theirs] for ours, theirs in columns.items()}
        yield SourceRow(row.where, others | renamed)
