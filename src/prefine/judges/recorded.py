"""Recorded verdicts: grades that came with the completions."""

import math
from typing import Annotated

from pydantic import Field

from prefine.errors import DataError
from prefine.judges.protocol import Verdict
from prefine.records import Completion, Prompt, content_hash

KNOWN_FIELDS = ("preference", "grade", "score", "rating")


class RecordedJudge:
    """Compares the grades in the metadata: p_first = sigmoid(grade gap / temperature).

    Args:
        field: Metadata field that holds the grade, higher is better. None takes whichever one of
            `KNOWN_FIELDS` the completions have.
        temperature: Grade gap that makes the odds e to 1 [grades]. Near 0 every difference is a
            sure verdict.
    """

    first_slot_bias = 0.0

    def __init__(
        self, *, field: str | None = None, temperature: Annotated[float, Field(gt=0)] = 1.0
    ) -> None:
        self._field = field
        self._temperature = temperature
        self.fingerprint = content_hash("recorded", field, temperature)

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError unless every completion has a finite grade in one field."""
        field = self._field_of(prompt, completions)
        for completion in completions:
            _grade(prompt, completion, field)

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """Return the verdict on two completions; equal grades are a tie."""
        field = self._field_of(prompt, [first, second])
        gap = _grade(prompt, first, field) - _grade(prompt, second, field)
        return Verdict(0.5 + 0.5 * math.tanh(gap / self._temperature / 2))

    def compare_across(
        self, prompt: Prompt, first: Completion, second_prompt: Prompt, second: Completion
    ) -> Verdict:
        """Return the verdict on answers to two prompts, whose grades are of one scale."""
        gap = self.score(prompt, first) - self.score(second_prompt, second)
        return Verdict(0.5 + 0.5 * math.tanh(gap / self._temperature / 2))

    def score(self, prompt: Prompt, completion: Completion) -> float:
        """Return the grade."""
        return _grade(prompt, completion, self._field_of(prompt, [completion]))

    def _field_of(self, prompt: Prompt, completions: list[Completion]) -> str:
        if self._field is not None:
            return self._field
        present = [name for name in KNOWN_FIELDS if any(name in c.metadata for c in completions)]
        if len(present) == 1:
            return present[0]
        found = f"{' and '.join(present)} are there" if present else "none of them is there"
        raise DataError(
            f"prompt {prompt.id}: the completions need exactly one of the metadata fields "
            f"{', '.join(KNOWN_FIELDS)}, but {found}; name the field that "
            "holds the grades: rank.judge.field"
        )


def _grade(prompt: Prompt, completion: Completion, field: str) -> float:
    """Return the completion's grade; raise DataError if it is missing or no finite number."""
    model = f", model {completion.model!r}" if completion.model else ""
    where = (
        f"prompt {prompt.id}: completion {completion.id} "
        f"(sample_index {completion.sample_index}{model})"
    )
    remedy = "add a grade, drop the completion, or name another field: rank.judge.field"
    if field not in completion.metadata:
        raise DataError(f"{where} has no grade in metadata field {field!r}; {remedy}")
    value = completion.metadata[field]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: grade {field!r} is {value!r}, not a number; {remedy}")
    try:
        grade = float(value)
    except OverflowError:
        grade = math.inf
    if not math.isfinite(grade):
        raise DataError(f"{where}: grade {field!r} is {value!r}, not a finite number; {remedy}")
    return grade
