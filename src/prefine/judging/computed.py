"""Judges that compute their verdicts, journaled like those that ask a model."""

from collections.abc import Mapping, Sequence

from prefine.calls.protocol import Asker, Call, Failure
from prefine.errors import PrefineError
from prefine.judges.protocol import ComputedAcross, ComputedJudge, ComputedScorer, Verdict
from prefine.judging.asking import Paced, ask_in_batches
from prefine.judging.protocol import (
    AnyMatchup,
    Matchup,
    MatchupAcross,
    across_key,
    judgment_key,
    judgments,
    metadata_key,
)
from prefine.judging.scores import FunctionScorer, ScoreJudge
from prefine.records import Completion, Judgment, Prompt, Usage

_BATCH = 256


class JournaledJudge:
    """A `ComputedJudge` whose verdicts go through the call engine.

    Args:
        judge: Compares; if it can score as well, the object has a method `rate`, and if it compares
            answers to two prompts, `judge_across`. It is asked in one thread, unless it says by
            `concurrency` in how many it may be asked.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, judge: ComputedJudge) -> None:
        self._judge = judge
        self.fingerprint = judge.fingerprint
        self.first_slot_bias = judge.first_slot_bias
        self.concurrency: int = getattr(judge, "concurrency", 1)
        self._paced = Paced(self._answers, largest=_BATCH)
        if isinstance(judge, ComputedScorer):
            # The judge's fingerprint stands for its settings and its code.
            options = {"judge": judge.fingerprint}
            scorer = FunctionScorer(judge.score, name="score", options=options, source="")
            scorer.concurrency = self.concurrency
            self.rate = ScoreJudge(scorer, temperature=1).rate
        if isinstance(judge, ComputedAcross):
            self.check_across = _no_other_settings
            self.judge_across = self._judge_across

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError if the judge cannot work on this prompt's completions."""
        self._judge.check(prompt, completions)

    async def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """Return one judgment per matchup, in order."""
        return await self._asked(
            asker,
            [
                Call(
                    judgment_key(self.fingerprint, matchup, extra_key=metadata_key(*matchup)),
                    matchup,
                )
                for matchup in matchups
            ],
        )

    async def _judge_across(
        self, asker: Asker, matchups: Sequence[MatchupAcross]
    ) -> list[Judgment]:
        """Return one judgment per matchup, in order."""
        calls: list[Call[AnyMatchup]] = []
        for matchup in matchups:
            sides = metadata_key(*matchup[:2]), metadata_key(*matchup[2:])
            key = across_key(self.fingerprint, matchup, extra_key="".join(sides))
            calls.append(Call(key, matchup))
        return await self._asked(asker, calls)

    async def _asked(self, asker: Asker, calls: Sequence[Call[AnyMatchup]]) -> list[Judgment]:
        answers = await ask_in_batches(
            asker, calls, Judgment, self._paced, batches_matter=False, backend=self
        )
        return judgments(self.fingerprint, calls, answers)

    def _answers(self, calls: Sequence[Call[AnyMatchup]]) -> Mapping[str, Judgment | Failure]:
        return {call.key: self._judged(call.payload) for call in calls}

    def _verdict(self, matchup: AnyMatchup) -> Verdict:
        if isinstance(matchup, Matchup):
            return self._judge.compare(*matchup)
        assert isinstance(self._judge, ComputedAcross), "else it has no judge_across"
        return self._judge.compare_across(*matchup)

    def _judged(self, matchup: AnyMatchup) -> Judgment | Failure:
        try:
            verdict = self._verdict(matchup)
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


def _no_other_settings(*, where: str) -> None:
    """A judge that computes needs no settings for two prompts beside those that it has."""
