"""Calls, batches and failures, and the protocols of a journal and of the engine."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

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


Answers: TypeAlias = Mapping[str, A | Failure]
Answering: TypeAlias = Callable[[], Answers[A] | Awaitable[Answers[A]]]


class Batch(NamedTuple, Generic[A]):
    """Calls that go out together: `answer` makes them, once `keys` are journaled as asked.

    A coroutine function is awaited on the engine's event loop; any other function is taken to block
    and runs in a thread of its backend. It may answer more keys than are asked for.
    """

    keys: Sequence[str]
    answer: Answering[A]


class Backend(Protocol):
    """Whoever answers: the calls of one backend share its slots.

    If it has a coroutine function `aclose`, that is awaited when the event loop ends. If its
    `resume_from` is a function, its calls outlive the process, as those of batch files do: it gets
    a `SubmissionLog` before the first call, and what is in flight when a run ends is left to it.
    """

    @property
    def concurrency(self) -> int:
        """The most batches in flight."""
        ...


class Submission(NamedTuple):
    """Calls that were handed over together: our name for them, and the server's once it has one."""

    token: str
    id: str | None


class SubmissionLog(Protocol):
    """Remembers, over kills, which calls were handed over to a server and in which batch."""

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """The submission of each of these lines that was ever handed over.

        Args:
            lines: Names of calls, the same ones in every run.
        """
        ...

    async def submitted(self, submission: Submission, lines: Iterable[str]) -> None:
        """Return once it survives a kill that the lines belong to this submission.

        Args:
            submission: Without an id before it is handed over, with it afterwards.
            lines: The lines; none where only the id is new.
        """
        ...


@dataclass
class JournalGroup:
    """One commit of the journal: notes, answers (JSON) and costs of failures (JSON)."""

    stage: str = ""
    submitted: list[tuple[Submission, list[str]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class AnswerLog(Protocol):
    """Keeps answers by key; `prefine.run.journal.Journal` is one on disk.

    The engine writes from one thread and reads from another, both at the same time.
    """

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`."""
        ...

    def failed_usages(self, keys: Iterable[str]) -> list[str]:
        """The costs of failed attempts at `keys`, each a `Usage` as JSON."""
        ...

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """The submission of each of these lines that was ever handed over."""
        ...

    def write(self, group: JournalGroup) -> int:
        """Keep a group for good, whole or not at all.

        Returns: How many of `group.asked` were in flight when an earlier run ended: asked, and
        neither answered nor failed.
        """
        ...

    def repeats(self, stage: str) -> int:
        """The sum of what `write` has returned for this stage, in all runs."""
        ...

    @property
    def what_is_kept(self) -> str:
        """A sentence for messages: which answers are kept when asking ends early."""
        ...


class Asker(Protocol):
    """The engine, as judges and models see it."""

    async def ask(
        self,
        calls: Sequence[Call[P]],
        kind: type[A],
        batches: Callable[[list[Call[P]]], Iterable[Batch[A]]],
        *,
        backend: Backend,
    ) -> dict[str, A | Failure]:
        """Answers by key."""
        ...
