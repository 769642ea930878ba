"""The state of a viewer: the runs that it shows, and what it has read of them."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prefine.view.index import PromptIndex, ReadState
from prefine.view.notes import NotesFile, ReaderNote
from prefine.view.overview import RunLines
from prefine.view.places import RunPlace, every, find_places
from prefine.view.search import Searches

_LOOKING_SHARE = 5
"""Looking for runs takes at most a sixth of the time."""
_OPEN_RUNS = 2
"""Runs whose facts are kept in memory."""
_PATIENCE_S = 10.0
"""A page waits so long for its prompt, while the run is read for the first time or again."""


class OpenRun:
    """A run with its facts and its reader's notes.

    Args:
        place: Where it is.
        notes: Beside it.
    """

    def __init__(self, place: RunPlace, notes: NotesFile) -> None:
        self.place, self.notes = place, notes
        self.index = PromptIndex(place.folders)
        self.searches = Searches(self.index)
        self._noted: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def look(self) -> ReadState:
        """Read what has changed in the run, and in its notes.

        Raises:
            DataError: A line of the notes is damaged.
        """
        state = self.notes.state()
        with self._lock:
            if state != self._noted:
                self._load_notes(self.notes.read())
                self._noted = state
        return self.index.look()

    def look_for(self, round_: int, prompt_id: str) -> tuple[ReadState, bool]:
        """Read what has changed until a prompt is found, or all is read; return if it was found.

        Raises:
            DataError: A line of the notes is damaged.
        """
        ends = time.monotonic() + _PATIENCE_S
        while True:
            state = self.look()
            found = self.index.database.rows(
                "SELECT 1 FROM facts WHERE round = ? AND prompt_id = ?", [round_, prompt_id]
            )
            if found or state.whole or state.problems or time.monotonic() > ends:
                return state, bool(found)

    def note_of(self, round_: int, prompt_id: str) -> ReaderNote:
        """The note of a prompt; one without words where there is none."""
        found = self.index.database.rows(
            "SELECT flag, note FROM noted WHERE round = ? AND prompt_id = ?", [round_, prompt_id]
        )
        flag, note = found[0] if found else (False, "")
        return ReaderNote(prompt_id=prompt_id, round=round_, flag=flag, note=note)

    def _load_notes(self, notes: Sequence[ReaderNote]) -> None:
        rows = [one.model_dump(include={"round", "prompt_id", "flag", "note"}) for one in notes]
        self.index.database.rows("DELETE FROM noted")
        self.index.database.rows(
            "INSERT INTO noted SELECT r.round, r.prompt_id, r.flag, r.note FROM (SELECT "
            "unnest($rows::STRUCT(round INTEGER, prompt_id VARCHAR, flag BOOLEAN, note VARCHAR)[]) "
            "AS r)",
            {"rows": rows},
        )
        self.searches.notes_version += 1


class Runs(NamedTuple):
    """The runs that were found, in order, and by key."""

    places: list[RunPlace]
    by_key: dict[str, RunPlace]


class Viewer:
    """The runs below some folders; a few of them open.

    Args:
        roots: The folders.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [root.resolve() for root in roots]
        self.lines = RunLines()
        self._open: OrderedDict[RunPlace, OpenRun] = OrderedDict()
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._look_again = 0.0
        self._runs = Runs([], {})

    def runs(self) -> Runs:
        """The runs that there are now, or were a moment ago where looking takes long.

        Raises:
            ConfigError: There are too many folders to look through.
        """
        with self._looking:
            began = time.monotonic()
            if began >= self._look_again:
                places = find_places(self.roots)
                self._runs = Runs(places, {place.key: place for place in every(places)})
                ended = time.monotonic()
                self._look_again = ended + _LOOKING_SHARE * (ended - began)
            return self._runs

    def open(self, place: RunPlace, runs: Runs) -> OpenRun:
        """A run with its facts, which are begun to be read on its first use."""
        with self._lock:
            if place not in self._open:
                self._open[place] = OpenRun(place, NotesFile(notes_beside(place, runs)))
            self._open.move_to_end(place)
            while len(self._open) > _OPEN_RUNS:
                _, oldest = self._open.popitem(last=False)
                oldest.index.stop()
            return self._open[place]

    def close(self) -> None:
        """Stop reading, before the process ends."""
        with self._lock:
            for run in self._open.values():
                run.index.close()
            self._open.clear()


def notes_beside(place: RunPlace, runs: Runs) -> Path:
    """The folder beside which the notes of a run stand: of a round, that of all rounds."""
    parent = runs.by_key.get(place.parent or "")
    return parent.path if parent is not None and parent.kind == "rounds" else place.path
