"""What a judge is to the stages: it answers comparisons through the call engine, so each is journaled."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from prefine.calls.protocol import Asker, Call, Failure
from prefine.records import Comparison, Completion, Judgment, Prompt, Score, content_hash


class Matchup(NamedTuple):
    """Two completions of a prompt in the order to be shown."""

    prompt: Prompt
    first: Completion
    second: Completion

    @property
    def comparison(self) -> Comparison:
        """The same by id."""
        return Comparison(prompt_id=self.prompt.id, first=self.first.id, second=self.second.id)


class Answered(NamedTuple):
    """A completion beside its prompt."""

    prompt: Prompt
    completion: Completion


@runtime_checkable
class Judge(Protocol):
    """A judge with whatever it needs to answer.

    `fingerprint` hashes everything that its verdicts depend on; it is part of the journal's keys.
    `first_slot_bias` is the known preference for the first slot, in logits (0 when unknown).
    `notes` is what the user should be told once, such as what a server ignores; it grows while the
    judge is asked.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of the judge's settings."""
        ...

    @property
    def first_slot_bias(self) -> float:
        """Known preference for the first slot [logit]."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What turned out while asking."""
        ...

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Raise DataError when the judge cannot work on this prompt's completions, before anything is asked."""
        ...

    def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """One judgment per matchup, in order; a failed one has no `p_first` and says why."""
        ...


@runtime_checkable
class Rater(Protocol):
    """A judge that can also give a completion a number, for the strategies that ask for ratings."""

    def rate(self, asker: Asker, items: Sequence[Answered]) -> list[Score]:
        """One score per item, in order, higher is better; a failed one has no value and says why."""
        ...


def judgment_key(judge_fingerprint: str, matchup: Matchup, *, beside: Sequence[str] = ()) -> str:
    """The journal's key: judge, contents and order; never a position in a file.

    Args:
        judge_fingerprint: Of the judge.
        matchup: What it is asked.
        beside: `beside_the_texts` for a judge that reads it; nothing for one that is shown texts
            only.
    """
    prompt, first, second = matchup
    shown = [[side.id, side.message.chat()] for side in (first, second)]
    return content_hash("judgment", judge_fingerprint, prompt.id, shown, 0, *beside)


def beside_the_texts(prompt: Prompt, *completions: Completion) -> str:
    """What a judge that reads our records may go by beside the texts: metadata, and why a completion ended.

    It belongs in the keys of judges that compute, or an edited grade would find its old verdicts;
    and not in those of judges that ask a model, which never see it: their paid answers outlive an
    edit. A prompt's place in a file counts for neither.
    """
    # Not the canonical JSON, which refuses the NaN that a user's metadata may hold.
    ended = [[completion.metadata, completion.finish_reason] for completion in completions]
    return json.dumps([prompt.metadata, ended], sort_keys=True)


def judgments(
    fingerprint: str, calls: Sequence[Call[Matchup]], answers: Mapping[str, Judgment | Failure]
) -> list[Judgment]:
    """The judgment of each call, in order; a failed one without a verdict and with its reason."""
    found = [(call.payload, answers[call.key]) for call in calls]
    return [
        Judgment(comparison=matchup.comparison, judge=fingerprint, error=answer.reason)
        if isinstance(answer, Failure)
        else answer
        for matchup, answer in found
    ]
