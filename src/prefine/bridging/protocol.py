"""The protocols of bridgers: those that ask through the call engine, and those that compute."""

from collections.abc import Sequence
from typing import Protocol

from prefine.calls.protocol import Asker, Failure
from prefine.records import Completion, PreferencePair, Prompt

UNCHANGED = {"unchanged": True}
"""The metadata of a rewriting that leaves the answer as it is."""


class Revises(Protocol):
    """A bridger that computes its rewriting from the prompt and both answers.

    `fingerprint` hashes everything that a rewriting depends on beside these; it is part of the
    journal's key. A class declares it by `@provides(Revises)`.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and the code's version."""
        ...

    @property
    def label(self) -> str:
        """A short name for people."""
        ...

    def check(self, prompt: Prompt) -> None:
        """Check before anything is rewritten that it can work on answers to this prompt.

        Args:
            prompt: The prompt.

        Raises:
            DataError: It cannot.
        """
        ...

    def revise(self, prompt: Prompt, chosen: Completion, rejected: Completion) -> str | None:
        """Return the rejected answer, rewritten towards the chosen one; a pure function.

        None says that there is nothing to change.

        Args:
            prompt: What both answers reply to.
            chosen: The better answer.
            rejected: The answer to revise.

        Raises:
            DataError: As for `check`. Any other exception is a failure of this rewriting.
        """
        ...


class Bridger(Protocol):
    """Rewrites rejected answers through the call engine, as the stage `bridge` asks for them.

    `notes` are for the user. `concurrency` is how many pairs may be asked at a time.
    """

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a rewriting depends on beside the pair."""
        ...

    @property
    def label(self) -> str:
        """A short name for people."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for the user, each once."""
        ...

    @property
    def concurrency(self) -> int:
        """Pairs asked at a time."""
        ...

    def check(self, prompt: Prompt) -> None:
        """Check before anything is asked that it can work on answers to this prompt.

        Args:
            prompt: The prompt.

        Raises:
            DataError: It cannot.
        """
        ...

    async def bridge(
        self, asker: Asker, pairs: Sequence[PreferencePair]
    ) -> list[Completion | Failure]:
        """Return one rewriting per pair, in order, or the reason why there is none.

        One with `UNCHANGED` among its metadata says that there is nothing to change.

        Args:
            asker: The engine, which asks only what is not journaled yet.
            pairs: The pairs.

        Raises:
            BackendError: The model or its server cannot answer anything.
            LimitError: A limit on calls or cost is reached.
        """
        ...
