"""Judgments of a judge that computes its verdicts; they go through the same journal as paid ones."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from prefine.calls.base import Asker, Batch, Call, Failure
from prefine.judges.base import ComputedJudge
from prefine.records import Comparison, Completion, Judgment, Prompt, Usage, content_hash

_BATCH = 256


class Matchup(NamedTuple):
    """Two completions of a prompt in the order to be shown."""

    prompt: Prompt
    first: Completion
    second: Completion

    @property
    def comparison(self) -> Comparison:
        """The same by id."""
        return Comparison(prompt_id=self.prompt.id, first=self.first.id, second=self.second.id)


def judgment_key(judge_fingerprint: str, matchup: Matchup, sample_index: int = 0) -> str:
    """The journal's key: judge, contents and order, sample; never a position in a file."""
    prompt, first, second = matchup
    shown = [[side.id, side.message.chat()] for side in (first, second)]
    return content_hash("judgment", judge_fingerprint, prompt.id, shown, sample_index)


def judge_all(asker: Asker, judge: ComputedJudge, matchups: Sequence[Matchup]) -> list[Judgment]:
    """One judgment per matchup, in order; a failed one has no `p_first` and says why."""
    calls = [Call(judgment_key(judge.fingerprint, matchup), matchup) for matchup in matchups]

    def batches(open_calls: list[Call[Matchup]]) -> Iterator[Batch[Judgment]]:
        for start in range(0, len(open_calls), _BATCH):
            batch = open_calls[start : start + _BATCH]
            yield Batch([call.key for call in batch], partial(_answers, judge, batch))

    answers = asker.ask(calls, Judgment, batches)
    return [_judgment(answers[call.key], judge, call.payload) for call in calls]


def _answers(judge: ComputedJudge, calls: Sequence[Call[Matchup]]) -> Mapping[str, Judgment | Failure]:
    return {call.key: _judged(judge, call.payload) for call in calls}


def _judged(judge: ComputedJudge, matchup: Matchup) -> Judgment | Failure:
    verdict = judge.compare(*matchup)
    if verdict.p_first is None:
        return Failure(verdict.error or "no verdict")
    return Judgment(
        comparison=matchup.comparison, judge=judge.fingerprint, p_first=verdict.p_first, usage=Usage(calls=1)
    )


def _judgment(answer: Judgment | Failure, judge: ComputedJudge, matchup: Matchup) -> Judgment:
    if isinstance(answer, Failure):
        return Judgment(comparison=matchup.comparison, judge=judge.fingerprint, error=answer.reason)
    return answer
