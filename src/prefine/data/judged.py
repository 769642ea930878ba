"""Rows whose completions carry a judgment → lists and labelled answers.

A row has `prompt` and `completions`, or one answer, as `entries.completions` reads them; a judgment
is a field of the completion, or a column beside a single answer.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from prefine.data import entries
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import SourceRow, has, show
from prefine.data.messages import reason
from prefine.errors import DataError
from prefine.records import Completion, LabelledCompletion, PreferenceList, Prompt

_WORDS = {"true": True, "1": True, "false": False, "0": False}
_LABEL, _SCORE, _RANK = "label", "score", "rank"


def lists(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[PreferenceList]:
    """Yield one list a prompt, best first, from the `score` or `rank` of its completions.

    Args:
        rows: In our own columns.
        report: Counts empty answers, and prompts whose answers are in no order.

    Raises:
        DataError: A completion has neither, or some have one and some the other; or no row is left.
    """
    report = report or ImportReport()
    for prompt, completions in entries.completions(rows, report, several_turns=True):
        try:
            yield _list(prompt, completions)
        except UselessRow as useless:
            report.kept -= 1
            report.drop(useless, prompt.source)
    report.require_some("lists")


def labels(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[LabelledCompletion]:
    """Yield one labelled answer a completion, from its `label`: true or false, 1 or 0.

    Args:
        rows: In our own columns.
        report: Counts empty answers; what it keeps are labelled answers, what it reads prompts.

    Raises:
        DataError: A completion has no label, or no row is left.
    """
    report = report or ImportReport()
    for prompt, completions in entries.completions(rows, report, several_turns=True):
        report.kept += len(completions) - 1
        for completion in completions:
            values, rest = _judgment(prompt, completion, _LABEL)
            label = _WORDS.get(str(values[_LABEL]).lower().removesuffix(".0"))
            if label is None:
                raise DataError(
                    f"{_where(prompt, completion)}: label must be true or false (or 1, 0), got "
                    f"{show(values[_LABEL])}"
                )
            yield LabelledCompletion(
                prompt=prompt,
                completion=completion.model_copy(update={"metadata": rest}),
                desirable=label,
            )


def _list(prompt: Prompt, completions: list[Completion]) -> PreferenceList:
    if len(completions) < 2:
        raise UselessRow(
            "list of one answer", f"{prompt.source}: a list needs two answers: remove the row"
        )
    by_score = _SCORE in completions[0].metadata
    name = _SCORE if by_score else _RANK
    ordered: list[tuple[float, Completion]] = []
    for completion in completions:
        values, rest = _judgment(prompt, completion, name)
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int if name == _RANK else int | float):
            raise DataError(
                f"{_where(prompt, completion)}: {name} must be a "
                f"{'number' if by_score else 'whole number, 1 for the best'}, got {show(value)}"
            )
        ordered.append((value, completion.model_copy(update={"metadata": rest})))
    ordered.sort(key=lambda one: -one[0] if by_score else one[0])
    found = tuple(value for value, _ in ordered)
    if found[0] == found[-1]:
        raise UselessRow(
            "all equally good",
            f"{prompt.source}: all {len(found)} answers have the {name} {found[0]}, which is no "
            "order: remove the row",
        )
    try:
        return PreferenceList.model_validate(
            {
                "prompt": prompt,
                "completions": tuple(completion for _, completion in ordered),
                f"{name}s": found,
            }
        )
    except ValidationError as error:
        raise DataError(f"{prompt.source}: {reason(error)}; remove one of them") from error


def _judgment(
    prompt: Prompt, completion: Completion, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The judgment of a completion, and its other metadata."""
    metadata = dict(completion.metadata)
    if metadata.get(name) is None:
        raise DataError(
            f"{_where(prompt, completion)}: no {name}; {has(metadata)}; every answer needs one, "
            f"such as {json.dumps({'text': '…', name: True if name == _LABEL else 1})}, or the "
            f"column {name} where each row has one answer"
        )
    return {name: metadata.pop(name)}, metadata


def _where(prompt: Prompt, completion: Completion) -> str:
    return f"{prompt.source}, completion {completion.sample_index}"
