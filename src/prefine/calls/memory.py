"""A journal in memory, for the Python API without a journal file."""

from collections.abc import Iterable

from prefine.calls.protocol import JournalGroup, Submission


class MemoryLog:
    """An `AnswerLog` that ends with the process."""

    what_is_kept = (
        "Without a journal nothing of it is kept: give journal=FILE to go on where this stopped"
    )

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        self._failed: list[tuple[str, str]] = []

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`."""
        return {key: self._answers[key] for key in keys if key in self._answers}

    def failed_usages(self, keys: Iterable[str]) -> list[str]:
        """The costs of failed attempts at `keys`."""
        wanted = set(keys)
        return [usage for key, usage in self._failed if key in wanted]

    def submissions(self, lines: Iterable[str]) -> dict[str, Submission]:
        """None: what was handed over ends with the process, too."""
        return {}

    def write(self, group: JournalGroup) -> int:
        """Keep answers and costs; a call in flight ends with the process that asked."""
        self._answers |= group.answers
        self._failed += group.failed.items()
        return 0

    def repeats(self, stage: str) -> int:
        """Always 0: a call in flight ends with the process that asked."""
        return 0
