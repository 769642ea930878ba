"""Judgments of a judge that computes its verdicts; they go through the same journal as paid ones."""

from collections.abc import Mapping, Sequence

from prefine.calls.base import Asker, Call, Failure
from prefine.errors import PrefineError
from prefine.judges.base import ComputedJudge
from prefine.judging.asking import ask_each
from prefine.judging.base import Matchup, judgment_key, judgments
from prefine.records import Completion, Judgment, Prompt, Usage

_GROUP = 256


class ComputedJudging:
    """A `ComputedJudge` as the stages ask it."""

    notes: tuple[str, ...] = ()

    def __init__(self, judge: ComputedJudge) -> None:
        self._judge = judge
        self.fingerprint = judge.fingerprint
        self.first_slot_bias = judge.first_slot_bias

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError when the judge cannot work on this prompt's completions."""
        self._judge.check(prompt, completions)

    def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """One judgment per matchup, in order."""
        calls = [Call(judgment_key(self.fingerprint, matchup), matchup) for matchup in matchups]
        return judgments(self.fingerprint, calls, ask_each(asker, calls, Judgment, self._answers, size=_GROUP))

    def _answers(self, calls: Sequence[Call[Matchup]]) -> Mapping[str, Judgment | Failure]:
        return {call.key: self._judged(call.payload) for call in calls}

    def _judged(self, matchup: Matchup) -> Judgment | Failure:
        try:
            verdict = self._judge.compare(*matchup)
        except PrefineError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's code is a backend: one comparison failing is data
            return Failure(f"the judge raised {type(error).__name__}: {error}"[:200])
        if verdict.p_first is None:
            return Failure(verdict.error or "no verdict")
        return Judgment(
            comparison=matchup.comparison, judge=self.fingerprint, p_first=verdict.p_first, usage=Usage(calls=1)
        )
