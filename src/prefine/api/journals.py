"""Where the answers of a call are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefine.calls.memory import MemoryLog
from prefine.calls.protocol import AnswerLog
from prefine.run.journal import Journal


@contextmanager
def answer_log(journal: str | Path | None) -> Iterator[AnswerLog]:
    """Where answers are kept: a file, or this process."""
    if journal is None:
        yield MemoryLog()
        return
    kept = Journal(Path(journal))
    try:
        yield kept
    finally:
        kept.close()
