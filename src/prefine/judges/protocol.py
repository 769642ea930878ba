"""The judge protocol.

A judge that computes its verdict implements `ComputedJudge`. A judge that asks a language model
renders a prompt and parses the answer; the call in between belongs to `judging/`.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from prefine.records import Completion, Prompt


class Verdict(NamedTuple):
    """P(first is better), .5 for a tie; or None with the reason in `error`."""

    p_first: float | None
    error: str | None = None


@runtime_checkable
class ComputedJudge(Protocol):
    """A judge that needs no model call: a simulator, recorded verdicts, a scoring function.

    `fingerprint` hashes everything that its verdicts depend on; it is part of the journal's key.
    `first_slot_bias` is the known preference for the first slot, in logits (0 when unknown).
    """

    @property
    def fingerprint(self) -> str:
        """Hash of the judge's settings."""
        ...

    @property
    def first_slot_bias(self) -> float:
        """Known preference for the first slot [logit]."""
        ...

    def check(self, prompt: Prompt, completions: list[Completion]) -> None:
        """Check before anything is compared that the judge can work on these completions.

        Args:
            prompt: Their prompt.
            completions: All that may be compared.

        Raises:
            DataError: It cannot, for example because a grade is missing.
        """
        ...

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """Return the verdict on two completions in the order shown; a pure function.

        Args:
            prompt: Their prompt.
            first: The completion in the first slot.
            second: The completion in the second slot.

        Raises:
            DataError: As for `check`. Any other exception is a failure of this comparison.
        """
        ...


@runtime_checkable
class ComputedAcross(Protocol):
    """A `ComputedJudge` that can also compare answers to two prompts."""

    def compare_across(
        self, prompt: Prompt, first: Completion, second_prompt: Prompt, second: Completion
    ) -> Verdict:
        """Return the verdict on two answers in the order shown; a pure function.

        Args:
            prompt: What the first answers.
            first: The completion in the first slot.
            second_prompt: What the second answers.
            second: The completion in the second slot.

        Raises:
            DataError: As for `check`. Any other exception is a failure of this comparison.
        """
        ...


@runtime_checkable
class ComputedScorer(Protocol):
    """A `ComputedJudge` that can also rate one completion, for strategies that ask for ratings."""

    def score(self, prompt: Prompt, completion: Completion) -> float | None:
        """Return the rating, higher is better, or None if there is none; a pure function.

        Args:
            prompt: The prompt of the completion.
            completion: The completion to rate.

        Raises:
            DataError: As for `check`. Any other exception is a failure of this rating.
        """
        ...
