"""The answer that comes with a prompt: one that people wrote, for training against own samples."""

from typing import Any

from prefine.data.answer_rows import completion_of_item
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow, has
from prefine.errors import DataError
from prefine.records import Completion, Message, Prompt, content_hash

REFERENCE = "reference"
"""The column, and the field of a prompt's metadata, that has its reference answer."""
MODEL = "reference"
"""Stands for the model that wrote a reference answer."""


def with_reference(prompt: Prompt, row: SourceRow, report: ImportReport) -> Prompt:
    """Return a prompt with the reference answer of its row in its metadata.

    That is the column `reference`, or the only answer that the row has, or says to be good.

    Raises:
        UselessRow: The answer is empty.
        DataError: There is none, several could be it, or it has several turns.
    """
    answers = _answers_of(row)
    if len(answers) != 1:
        found = f"{len(answers)} answers could be it" if answers else has(row.values)
        raise DataError(
            f"{row.where}: no reference answer, which pair.selector reference_vs_sample prefers to "
            f"samples: {found}. Give a column {REFERENCE!r} with one answer, map one with columns: "
            f"{{{REFERENCE}: YOUR_COLUMN}}, or take the row out"
        )
    where = f"{row.where}, {REFERENCE}"
    answer = completion_of_item(prompt, 0, answers[0], where, report)
    if answer.earlier_turns:
        raise DataError(
            f"{where}: has {len(answer.messages)} turns; samples are of one turn: move earlier "
            "turns into the prompt"
        )
    message = answer.message.chat()
    told: Any = message["content"] if message.keys() == {"role", "content"} else message
    return prompt.model_copy(update={"metadata": {**prompt.metadata, REFERENCE: told}})


def reference_of(prompt: Prompt) -> Completion:
    """Return the reference answer of a prompt as a completion.

    Raises:
        DataError: It has none.
    """
    told = prompt.metadata.get(REFERENCE)
    if isinstance(told, str):
        told = {"role": "assistant", "content": told}
    if not isinstance(told, dict):
        raise DataError(
            f"{prompt.source or prompt.id}: the prompt has no reference answer, which "
            f"pair.selector reference_vs_sample needs; give its row a column {REFERENCE!r}"
        )
    message = Message.model_validate(told)
    return Completion(
        id=content_hash(REFERENCE, prompt.id, message.chat()),
        prompt_id=prompt.id,
        sample_index=0,
        message=message,
        model=MODEL,
        finish_reason="stop",
    )


def _answers_of(row: SourceRow) -> list[Any]:
    """Return what could be the reference answer of a row."""
    values = row.values
    if values.get(REFERENCE) is not None:
        return [{"text": values[REFERENCE]}]
    if values.get("chosen") is not None:
        return [{"text": values["chosen"]}]
    items = values.get("completions")
    found = items if isinstance(items, list) else []
    good = [one for one in found if isinstance(one, dict) and one.get("label") is True]
    return good or found
