"""A journal in memory: for the Python API, where nothing outlives the call."""

from collections.abc import Iterable, Mapping


class MemoryLog:
    """An `AnswerLog` that is forgotten with the process."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}

    def answers(self, keys: Iterable[str]) -> dict[str, str]:
        """The stored answers among `keys`."""
        return {key: self._answers[key] for key in keys if key in self._answers}

    def interrupted(self, keys: Iterable[str]) -> int:
        """None: what was in flight ended with the process that asked."""
        return 0

    def note_asked(self, keys: Iterable[str]) -> None:
        """Nothing to note."""

    def store(self, answers: Mapping[str, str]) -> None:
        """Keep answers."""
        self._answers |= answers

    def forget_asked(self, keys: Iterable[str]) -> None:
        """Nothing was noted."""
