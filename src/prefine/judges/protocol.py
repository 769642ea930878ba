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
        """Raise DataError when the judge cannot work on this prompt's completions, before anything is asked."""
        ...

    def compare(self, prompt: Prompt, first: Completion, second: Completion) -> Verdict:
        """The verdict on two completions in the order shown; pure."""
        ...


@runtime_checkable
class ComputedScorer(Protocol):
    """What a `ComputedJudge` may do beside: a number for one completion, for the strategies that ask for ratings."""

    def score(self, prompt: Prompt, completion: Completion) -> float | None:
        """The rating, higher is better, None where there is none; pure."""
        ...
