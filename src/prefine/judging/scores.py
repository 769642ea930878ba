"""Scorers as judges: a number per completion, and P(first) = sigmoid((score of first − score of second) / temperature).

Each completion is scored once, whatever it is compared with; scores are journaled like everything
that is asked.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

from prefine.calls.protocol import Asker, Call, Failure
from prefine.judging.asking import ask_each, ask_in_groups
from prefine.judging.protocol import Answered, Matchup, beside_the_texts
from prefine.records import Completion, Judgment, Prompt, Score, Usage, content_hash

_ONE = Usage(calls=1)


class Scorer(Protocol):
    """Gives completions a number, the higher the better."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a score depends on beside prompt and completion."""
        ...

    @property
    def batch_size(self) -> int:
        """How many completions are scored together."""
        ...

    @property
    def batches_matter(self) -> bool:
        """Whether a score may depend, in its last digits, on what is scored beside it."""
        ...

    @property
    def reads_records(self) -> bool:
        """Whether a score may depend on more than the texts, such as metadata."""
        ...

    def scores(self, items: Sequence[Answered]) -> Sequence[float | Failure]:
        """One score per item, in order."""
        ...


class ScoreJudge:
    """A scorer, asked about two completions.

    Args:
        scorer: Gives the scores.
        temperature: Score gap that makes the odds e to 1 [the scorer's unit].
    """

    first_slot_bias = 0.0
    notes: tuple[str, ...] = ()

    def __init__(self, scorer: Scorer, *, temperature: float) -> None:
        self._scorer = scorer
        self._temperature = temperature
        self._failed: dict[str, Failure] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of scorer and temperature."""
        return content_hash("scores", self._scorer.fingerprint, self._temperature)

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Nothing: what a scorer cannot score is a failure with its reason."""

    def check_model(self) -> None:
        """Raise before any work when the scorer's model cannot be used."""
        if hasattr(self._scorer, "check"):
            self._scorer.check()

    def rate(self, asker: Asker, items: Sequence[Answered]) -> list[Score]:
        """One score per item, in order; a failed one has no value and says why."""
        fingerprint = self._scorer.fingerprint
        calls = [
            Call(_score_key(fingerprint, item, self._scorer.reads_records), item) for item in items
        ]
        # What has failed once in this run is not tried in every round again.
        ordered = sorted(
            (call for call in calls if call.key not in self._failed),
            key=lambda call: (len(call.payload.completion.text), call.key),
        )
        ask = ask_in_groups if self._scorer.batches_matter else ask_each
        answers = ask(asker, ordered, Score, self._answers, size=self._scorer.batch_size)
        self._failed |= {
            key: answer for key, answer in answers.items() if isinstance(answer, Failure)
        }
        found = [
            (call.payload.completion.id, self._failed.get(call.key) or answers[call.key])
            for call in calls
        ]
        return [
            Score(completion_id=id_, judge=fingerprint, error=answer.reason)
            if isinstance(answer, Failure)
            else answer
            for id_, answer in found
        ]

    def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """One judgment per matchup, in order; it fails where one of the two scores did."""
        items = [Answered(m.prompt, side) for m in matchups for side in (m.first, m.second)]
        scores = iter(self.rate(asker, items))
        return [self._judgment(matchup, next(scores), next(scores)) for matchup in matchups]

    def _judgment(self, matchup: Matchup, first: Score, second: Score) -> Judgment:
        if first.value is None or second.value is None:
            error = first.error or second.error
            return Judgment(comparison=matchup.comparison, judge=self.fingerprint, error=error)
        gap = (first.value - second.value) / self._temperature
        return Judgment(
            comparison=matchup.comparison,
            judge=self.fingerprint,
            p_first=0.5 + 0.5 * math.tanh(gap / 2),
        )

    def _answers(self, calls: Sequence[Call[Answered]]) -> Mapping[str, Score | Failure]:
        values = self._scorer.scores([call.payload for call in calls])
        return {
            call.key: self._score(call.payload, value)
            for call, value in zip(calls, values, strict=True)
        }

    def _score(self, item: Answered, value: object) -> Score | Failure:
        if isinstance(value, Failure):
            return value
        number = _number(value)
        if number is None:
            return Failure(f"the score is a {type(value).__name__} and no number")
        if not math.isfinite(number):
            return Failure("the score is no finite number")
        return Score(
            completion_id=item.completion.id,
            judge=self._scorer.fingerprint,
            value=number,
            usage=_ONE,
        )


def _number(value: Any) -> float | None:
    """A number of Python, or one value of numpy or torch; True is none."""
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError):  # more than one value
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(value)


def _score_key(fingerprint: str, item: Answered, reads_records: bool) -> str:
    prompt, completion = item
    beside = [beside_the_texts(prompt, completion)] if reads_records else []
    return content_hash(
        "score", fingerprint, prompt.id, completion.id, completion.message.chat(), *beside
    )
