"""Judgments of a judge that computes its verdicts; they go through the same journal as paid ones."""

from collections.abc import Mapping, Sequence

from prefine.calls.protocol import Asker, Call, Failure
from prefine.errors import PrefineError
from prefine.judges.protocol import ComputedJudge, ComputedScorer
from prefine.judging.asking import ask_each
from prefine.judging.functions import FunctionScorer
from prefine.judging.protocol import (
    Answered,
    Judge,
    Matchup,
    beside_the_texts,
    judgment_key,
    judgments,
)
from prefine.judging.scores import ScoreJudge
from prefine.records import Completion, Judgment, Prompt, Score, Usage

_GROUP = 256


def computed(judge: ComputedJudge) -> Judge:
    """The judge as the stages ask it; one that can score rates, too."""
    return (
        ComputedRating(judge, judge)
        if isinstance(judge, ComputedScorer)
        else ComputedJudging(judge)
    )


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
        calls = [
            Call(
                judgment_key(self.fingerprint, matchup, beside=[beside_the_texts(*matchup)]),
                matchup,
            )
            for matchup in matchups
        ]
        return judgments(
            self.fingerprint, calls, ask_each(asker, calls, Judgment, self._answers, size=_GROUP)
        )

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
            comparison=matchup.comparison,
            judge=self.fingerprint,
            p_first=verdict.p_first,
            usage=Usage(calls=1),
        )


class ComputedRating:
    """A `ComputedJudge` that scores as well, as the stages ask it.

    Args:
        judge: Compares.
        scorer: Scores; the same object.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, judge: ComputedJudge, scorer: ComputedScorer) -> None:
        self._comparing = ComputedJudging(judge)
        # The judge's fingerprint stands for its settings and its code.
        options = {"judge": judge.fingerprint}
        self._scoring = ScoreJudge(
            FunctionScorer(scorer.score, name="score", options=options, source=""), temperature=1
        )
        self.fingerprint = judge.fingerprint
        self.first_slot_bias = judge.first_slot_bias

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError when the judge cannot work on this prompt's completions."""
        self._comparing.check(prompt, completions)

    def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """One judgment per matchup, in order."""
        return self._comparing.judge(asker, matchups)

    def rate(self, asker: Asker, items: Sequence[Answered]) -> list[Score]:
        """One score per item, in order."""
        return self._scoring.rate(asker, items)
