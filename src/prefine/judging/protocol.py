"""The protocols of judges whose answers go through the call engine and are journaled."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from prefine.calls.protocol import Asker, Call, Failure
from prefine.models.protocol import Answered
from prefine.records import Comparison, Completion, Judgment, Prompt, Score, content_hash


class Matchup(NamedTuple):
    """Two completions of a prompt in the order to be shown."""

    prompt: Prompt
    first: Completion
    second: Completion

    @property
    def comparison(self) -> Comparison:
        """The ids of the three."""
        return Comparison(prompt_id=self.prompt.id, first=self.first.id, second=self.second.id)


class MatchupAcross(NamedTuple):
    """Answers to two prompts in the order to be shown."""

    prompt: Prompt
    first: Completion
    second_prompt: Prompt
    second: Completion

    @property
    def comparison(self) -> Comparison:
        """The ids of the four."""
        return Comparison(
            prompt_id=self.prompt.id,
            first=self.first.id,
            second=self.second.id,
            second_prompt_id=self.second_prompt.id,
        )

    def swapped(self) -> "MatchupAcross":
        """Return the two in the other order."""
        return MatchupAcross(self.second_prompt, self.second, self.prompt, self.first)


AnyMatchup: TypeAlias = Matchup | MatchupAcross


@runtime_checkable
class Judge(Protocol):
    """A judge that decides which of two completions is better.

    `fingerprint` hashes everything that its verdicts depend on; it is part of the journal's keys.
    `first_slot_bias` is the known preference for the first slot, in logits (0 when unknown).
    `notes` are for the user, such as what a server ignores; they grow while the judge is asked.
    `concurrency` is how many matchups it may judge at a time, each asked by itself. With 1, the
    prompts of a shard ask together, round by round: it blocks, or its answers depend on batches.
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
        """Remarks for the user, each once."""
        ...

    @property
    def concurrency(self) -> int:
        """Matchups judged at a time, each asked by itself."""
        ...

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Check before anything is asked that the judge can compare these completions.

        Args:
            prompt: Their prompt.
            completions: All that may be compared.

        Raises:
            DataError: It cannot, for example because a grade is missing.
        """
        ...

    async def judge(self, asker: Asker, matchups: Sequence[Matchup]) -> list[Judgment]:
        """Return one judgment per matchup, in order; a failed one has `error` and no `p_first`.

        Args:
            asker: The engine, which asks only what is not journaled yet.
            matchups: The pairs to compare.

        Raises:
            BackendError: The model or its server cannot answer anything.
            LimitError: A limit on calls or cost is reached.
        """
        ...


@runtime_checkable
class Rater(Protocol):
    """A judge that can also give a completion a number, for the strategies that ask for ratings."""

    async def rate(self, asker: Asker, items: Sequence[Answered]) -> list[Score]:
        """Return one score per item, in order; a failed one has `error` and no value.

        Args:
            asker: The engine, which asks only what is not journaled yet.
            items: The completions to rate; a higher score is better.

        Raises:
            BackendError: The model or its server cannot answer anything.
            LimitError: A limit on calls or cost is reached.
        """
        ...


@runtime_checkable
class JudgesAcross(Protocol):
    """A judge that can also compare answers to two prompts."""

    def check_across(self, *, where: str) -> None:
        """Raise ConfigError if its settings are for one prompt only.

        Args:
            where: The judge's config path.
        """
        ...

    async def judge_across(self, asker: Asker, matchups: Sequence[MatchupAcross]) -> list[Judgment]:
        """Return one judgment per matchup, in order; a failed one has `error` and no `p_first`.

        Args:
            asker: The engine, which asks only what is not journaled yet.
            matchups: What to compare.

        Raises:
            BackendError: The model or its server cannot answer anything.
            LimitError: A limit on calls or cost is reached.
        """
        ...


def judgment_key(judge_fingerprint: str, matchup: Matchup, *, extra_key: str | None = None) -> str:
    """Return the journal's key: judge, contents and order; never a position in a file.

    Args:
        judge_fingerprint: Of the judge.
        matchup: The pair to compare.
        extra_key: `metadata_key` for a judge that reads metadata; None for one that is shown the
            texts only.
    """
    prompt, first, second = matchup
    shown = [[side.id, side.message.chat()] for side in (first, second)]
    extra = () if extra_key is None else (extra_key,)
    return content_hash("judgment", judge_fingerprint, prompt.id, shown, 0, *extra)


def across_key(
    judge_fingerprint: str, matchup: MatchupAcross, *, extra_key: str | None = None
) -> str:
    """Return the journal's key of a comparison across prompts, as `judgment_key` does."""
    prompt, first, second_prompt, second = matchup
    shown = [
        [asked.id, side.id, side.message.chat()]
        for asked, side in ((prompt, first), (second_prompt, second))
    ]
    extra = () if extra_key is None else (extra_key,)
    return content_hash("judgment across", judge_fingerprint, shown, *extra)


def metadata_key(prompt: Prompt, *completions: Completion) -> str:
    """Return the metadata and finish reasons as text, for the keys of judges that may read them.

    Judges that compute need it, or an edited grade would find its old verdicts. Judges that ask a
    model never see it, so that their paid answers outlive an edit. A prompt's place in a file
    counts for neither.
    """
    # Not the canonical JSON, which refuses the NaN that a user's metadata may hold.
    extra = [[completion.metadata, completion.finish_reason] for completion in completions]
    return json.dumps([prompt.metadata, extra], sort_keys=True)


def judgments(
    fingerprint: str, calls: Sequence[Call[AnyMatchup]], answers: Mapping[str, Judgment | Failure]
) -> list[Judgment]:
    """Return the judgment of each call, in order; a failure becomes one with its reason."""
    found = [(call.payload.comparison, answers[call.key]) for call in calls]
    return [
        Judgment(comparison=comparison, judge=fingerprint, error=answer.reason)
        if isinstance(answer, Failure)
        else answer
        for comparison, answer in found
    ]
