"""Calls, batches and failures, and the protocol of a journal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from prefine.records import Record, Usage

A = TypeVar("A", bound=Record)
P = TypeVar("P")


class Call(NamedTuple, Generic[P]):
    """One thing to ask: `key` identifies question, judge or model, settings and sample."""

    key: str
    payload: P


class Failure(NamedTuple):
    """A call without a usable answer: a reason that many failures share, and what it cost."""

    reason: str
    usage: Usage = Usage()


class Batch(NamedTuple, Generic[A]):
    """Calls that go out together: `answer` makes them, once the engine has noted `keys` as asked.

    With a concurrency above 1, `answer` is called in a thread of its own.
    """

    keys: Sequence[str]
    answer: Callable[[], Mapping[str, A | Failure]]


class AnswerLog(Protocol):
    """Keeps answers by key; `prefine.run.journal.Journal` is one on disk."""

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`."""
        ...

    def interrupted(self, keys: Iterable[str]) -> int:
        """Count the `keys` that were asked before and never answered."""
        ...

    def note_asked(self, keys: Iterable[str]) -> None:
        """Note that these calls are about to go out."""
        ...

    def store(self, answers: Mapping[str, str]) -> None:
        """Keep answers for good."""
        ...

    def note_failed(self, usages: Mapping[str, str]) -> None:
        """Take back the note on calls that failed, and keep what they cost (a `Usage` as JSON)."""
        ...

    def failed_usages(self, keys: Iterable[str]) -> list[str]:
        """The costs of failed attempts at `keys`."""
        ...

    @property
    def what_is_kept(self) -> str:
        """A sentence for messages: which answers are kept when asking ends early."""
        ...


class Asker(Protocol):
    """The engine, as judges and models see it."""

    def ask(
        self,
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        *,
        concurrency: int = 1,
    ) -> dict[str, A | Failure]:
        """Answers by key."""
        ...
