"""Journals at a store: segments of groups as they were written, and whole files from time to time.

A segment is `journal/part-00000/LEASE-NUMBER.jsonl.gz`; replayed in their order onto the newest
`LEASE-NUMBER.sqlite`, which has everything up to that number, they give the journal again. A
process writes under the number of its lease, so the order holds over machines.
"""

import gzip
import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from prefine.calls.protocol import JournalGroup, Submission
from prefine.errors import DataError
from prefine.run.journal import Journal
from prefine.run.remote import Remote

_PIECE = re.compile(r"((?:.*/)?journal/part-\d+)/(\d{6})-(\d{6})\.(jsonl\.gz|sqlite)")
_SUFFIX = ".sqlite"


class JournalPiece(NamedTuple):
    """A stored piece of a journal: where it comes in the order, and if it is a whole file."""

    lease: int
    number: int
    whole: bool
    journal: str

    @property
    def name(self) -> str:
        """Its path at the store."""
        ending = "sqlite" if self.whole else "jsonl.gz"
        folder = self.journal.removesuffix(_SUFFIX)
        return f"{folder}/{self.lease:06d}-{self.number:06d}.{ending}"


def pieces_of(names: Iterable[str]) -> dict[str, list[JournalPiece]]:
    """Return the pieces among stored files, in their order, by the journal that they are of."""
    found: dict[str, list[JournalPiece]] = {}
    for name in names:
        if parts := _PIECE.fullmatch(name):
            journal = f"{parts[1]}{_SUFFIX}"
            piece = JournalPiece(int(parts[2]), int(parts[3]), parts[4] == "sqlite", journal)
            found.setdefault(journal, []).append(piece)
    return {journal: sorted(pieces) for journal, pieces in found.items()}


def is_piece(name: str) -> bool:
    """Return True if a stored file is a piece of a journal."""
    return _PIECE.fullmatch(name) is not None


def encode(groups: Sequence[JournalGroup]) -> bytes:
    """Return a segment of groups."""
    lines = []
    for one in groups:
        submitted = [[*submission, of_it] for submission, of_it in one.submitted]
        row = [one.stage, submitted, one.asked, one.answers, one.failed]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    text = "".join(lines)
    return gzip.compress(text.encode("utf-8", "surrogatepass"), compresslevel=3, mtime=0)


def decode(content: bytes, where: str) -> list[JournalGroup]:
    """Return the groups of a segment.

    Raises:
        DataError: It is damaged.
    """
    try:
        text = gzip.decompress(content).decode("utf-8", "surrogatepass")
        rows = [json.loads(line) for line in text.split("\n") if line]
        return [
            JournalGroup(
                stage,
                [(Submission(token, id_), lines) for token, id_, lines in submitted],
                asked,
                answers,
                failed,
            )
            for stage, submitted, asked, answers, failed in rows
        ]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise DataError(
            f"{where}: this segment of a journal is damaged ({error}); restore it from a backup, "
            "or delete it to ask its calls again"
        ) from error


def restore(remote: Remote, pieces: Sequence[JournalPiece], to: Path) -> int:
    """Build a journal from its stored pieces; return how many segments were replayed."""
    whole = max((piece for piece in pieces if piece.whole), default=None)
    if whole is not None:
        remote.download(whole.name, to)
    later = [
        piece
        for piece in sorted(pieces)
        if not piece.whole and (whole is None or piece[:2] > whole[:2])
    ]
    with closing(Journal(to)) as journal:
        for piece in later:
            where = f"{remote.url}/{piece.name}"
            for group in decode(remote.read(piece.name), where):
                journal.write(group)
        journal.sync()
    return len(later)


def snapshot(journal: Path, to: Path) -> None:
    """Write a copy of a journal that others may be writing, at one moment of it."""
    with (
        closing(sqlite3.connect(journal)) as source,
        closing(sqlite3.connect(to)) as copy,
    ):
        source.backup(copy)
