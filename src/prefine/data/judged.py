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
from prefine.data.layouts.protocol import SourceRow, has, number, show
from prefine.data.messages import reason
from prefine.errors import DataError
from prefine.records import (
    Completion,
    LabelledCompletion,
    PreferenceList,
    Prompt,
    canonical_json,
)

_WORDS = {"true": True, "1": True, "false": False, "0": False}
_LABEL, _SCORE, _GRADE, _RANK = "label", "score", "grade", "rank"
_KTO_TAG = "kto_tag"  # LlamaFactory's label


def lists(
    rows: Iterable[SourceRow], report: ImportReport | None = None
) -> Iterator[PreferenceList]:
    """Yield one list a prompt, best first, by the `score`, `grade` or `rank` of its completions.

    Args:
        rows: In our own columns.
        report: Counts empty and repeated answers, those that lack the grade which others of the
            prompt have, and prompts whose answers are in no order.

    Raises:
        DataError: A completion has none of them, or another one than the first; or no row is left.
    """
    report = report or ImportReport()
    for prompt, completions in entries.completions(rows, report, several_turns=True):
        try:
            yield _list(prompt, completions, report)
        except UselessRow as useless:
            report.kept -= 1
            report.drop(useless, prompt.source)
    report.require_some("lists")


def labels(
    rows: Iterable[SourceRow], report: ImportReport | None = None, *, above: float | None = None
) -> Iterator[LabelledCompletion]:
    """Yield one labelled answer a completion, from its `label` (or `kto_tag`): true or false.

    Args:
        rows: In our own columns.
        report: Counts empty answers, and those without a grade; what it keeps are labelled answers,
            what it reads prompts.
        above: The good answers are those with a greater `score` or `grade`; labels are not read.

    Raises:
        DataError: A completion has no label, or a grade that is no number, or no row is left.
    """
    report = report or ImportReport()
    for prompt, completions in entries.completions(rows, report, several_turns=True):
        report.kept += len(completions) - 1
        for completion in completions:
            given = completion.metadata
            name = _KTO_TAG if _KTO_TAG in given and _LABEL not in given else _LABEL
            if above is not None:
                name = next((one for one in (_SCORE, _GRADE) if given.get(one) is not None), "")
            if not name:
                report.kept -= 1
                _drop_without_grade(prompt, completion, report, "labels.above needs one")
                continue
            values, rest = _judgment(prompt, completion, name)
            yield LabelledCompletion(
                prompt=prompt,
                completion=completion.model_copy(update={"metadata": rest}),
                desirable=_is_good(values[name], name, above, _where(prompt, completion)),
            )


def _is_good(value: Any, name: str, above: float | None, where: str) -> bool:
    """The label, or whether the grade is above the threshold."""
    if above is None:
        # 1 and 0 as well, in a table perhaps as numbers.
        label = _WORDS.get(str(value).lower().removesuffix(".0"))
        if label is None:
            raise DataError(
                f"{where}: {name} must be true or false (or 1, 0), got {show(value)}; of answers "
                "with grades, labels: {…, above: …} takes those above a number as good"
            )
        return label
    return number(SourceRow(where, {name: value}), name) > above


def _list(prompt: Prompt, completions: list[Completion], report: ImportReport) -> PreferenceList:
    given = completions[0].metadata
    name = next((name for name in (_SCORE, _RANK) if name in given), None)
    if name is None and any(_GRADE in completion.metadata for completion in completions):
        # Layouts leave a missing grade out.
        name, completions = _GRADE, _with_grade(prompt, completions, report)
    name = name or _RANK
    by_score = name != _RANK
    ordered: list[tuple[float, Completion]] = []
    for completion in completions:
        values, rest = _judgment(prompt, completion, name)
        where = _where(prompt, completion)
        value = number(SourceRow(where, values), name)
        if name == _RANK and value != int(value):
            raise DataError(
                f"{where}: rank must be a whole number, 1 for the best, got {show(values[name])}"
            )
        ordered.append((value, completion.model_copy(update={"metadata": rest})))
    ordered.sort(key=lambda one: -one[0] if by_score else one[0])
    ordered = _without_repetitions(prompt, ordered, report)
    if len(ordered) < 2:
        raise UselessRow(
            "list of one answer", f"{prompt.source}: a list needs two answers: remove the row"
        )
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
                "scores" if by_score else "ranks": found,
            }
        )
    except ValidationError as error:
        raise DataError(f"{prompt.source}: {reason(error)}") from error


def _with_grade(
    prompt: Prompt, completions: list[Completion], report: ImportReport
) -> list[Completion]:
    graded = []
    for completion in completions:
        if _GRADE in completion.metadata:
            graded.append(completion)
            continue
        _drop_without_grade(prompt, completion, report, "which other answers to the prompt have")
    return graded


def _drop_without_grade(
    prompt: Prompt, completion: Completion, report: ImportReport, why: str
) -> None:
    where = _where(prompt, completion)
    message = f"{where}: no grade, {why}: add one"
    report.drop(UselessRow("answer without a grade", message), where)


def _without_repetitions(
    prompt: Prompt, ordered: list[tuple[float, Completion]], report: ImportReport
) -> list[tuple[float, Completion]]:
    """The answers without those that say the same as a better one."""
    kept: dict[str, tuple[float, Completion]] = {}
    for value, completion in ordered:
        said = canonical_json([message.chat() for message in completion.messages])
        if said not in kept:
            kept[said] = value, completion
            continue
        where = _where(prompt, completion)
        message = f"{where}: the same as completion {kept[said][1].sample_index}: remove one"
        report.drop(UselessRow("repeated answer", message), where)
    return list(kept.values())


def _judgment(
    prompt: Prompt, completion: Completion, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The judgment of a completion, and its other metadata."""
    metadata = dict(completion.metadata)
    if metadata.get(name) is None:
        found = "it is null or NaN" if name in metadata else has(metadata)
        raise DataError(
            f"{_where(prompt, completion)}: no {name}; {found}; every answer needs one, "
            f"such as {json.dumps({'text': '…', name: True if name == _LABEL else 1})}, or the "
            f"column {name} where each row has one answer"
        )
    return {name: metadata.pop(name)}, metadata


def _where(prompt: Prompt, completion: Completion) -> str:
    return f"{prompt.source}, completion {completion.sample_index}"
