"""Verdicts of people on two answers, and the judge that looks them up."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from prefine.judges.protocol import Verdict
from prefine.records import SCHEMA_VERSION, Completion, Prompt, Record, content_hash

HUMAN = "human:"
"""The prefix of the names of judges who are people."""

SKIPPED = "skipped"
QueueName: TypeAlias = Literal["random", "uncertain", "disagree"]
Scope: TypeAlias = Literal["evaluation", "rank"]
"""Of what the comparisons are: both answers of an evaluation, or the duels of a ranking."""


class HumanVerdict(Record):
    """One row of an annotator's file: two answers in the order shown, and the verdict.

    A later row on the same two answers takes the place of an earlier one. `first` and `second` are
    ids in the run; `first_answer` and `second_answer` are hashes of what was read, by which another
    run finds the verdict. `p_first` is 1, 0 or .5 (a tie); None where `error` says why there is
    none. `queue` is why the comparison was asked. A `carried` row repeats a verdict that another
    queue had asked for when the random order came to it: it belongs to the random sample, too. `at`
    is the time (UTC).
    """

    schema_version: int = SCHEMA_VERSION
    judge: str
    scope: Scope
    prompt_id: str
    first: str
    second: str
    first_answer: str
    second_answer: str
    p_first: Annotated[float, Field(ge=0, le=1)] | None = None
    error: str | None = None
    queue: QueueName
    carried: bool = False
    at: str

    @model_validator(mode="after")
    def _failure_has_a_reason(self) -> Self:
        if (self.p_first is None) != (self.error is not None):
            raise ValueError("a verdict has either p_first or the reason (error) why there is none")
        return self


def answer_key(completion: Completion) -> str:
    """Return a hash of what an annotator reads of an answer: its text and its tool calls."""
    message = completion.message
    return content_hash("answer", message.content, message.tool_calls)


class HumanJudge:
    """Looks up what people said on two answers; P(first) is the mean over annotators.

    An annotator's last verdict on two answers counts. Two answers that nobody has judged are a
    failed comparison, never a tie.

    Args:
        verdicts: Rows of annotators' files, each file's in its order.
    """

    first_slot_bias = 0.0

    def __init__(self, verdicts: Iterable[HumanVerdict]) -> None:
        last: dict[tuple[str, ...], float | None] = {}
        for one in verdicts:
            first, second, p = one.first_answer, one.second_answer, one.p_first
            if first > second:
                first, second, p = second, first, None if p is None else 1 - p
            last[one.prompt_id, first, second, one.judge] = p
        said: dict[tuple[str, str, str], list[float]] = {}
        for (prompt_id, first, second, _), p in last.items():
            if p is not None:
                said.setdefault((prompt_id, first, second), []).append(p)
        self._p: Mapping[tuple[str, str, str], float] = {
            key: fmean(values) for key, values in said.items()
        }
        self.fingerprint = content_hash("human", sorted([*key, p] for key, p in self._p.items()))

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Accept everything: where nobody has judged, the comparison fails by itself."""

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """Return the verdict on two answers in either order."""
        one, other = answer_key(first), answer_key(second)
        p = self._p.get((prompt.id, min(one, other), max(one, other)))
        if p is None:
            return Verdict(None, "no person has judged these two answers")
        return Verdict(p if one <= other else 1 - p)
