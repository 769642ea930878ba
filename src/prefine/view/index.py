"""An index of the prompts of a run: facts of each, read once for each state of its files.

Facts are read by a thread of their own, some parts at a time: a page shows what has been read so
far. Nothing is written; where the files change, what has changed is read again.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import duckdb

from prefine.errors import PrefineError
from prefine.records import SCHEMA_VERSION
from prefine.report.data import OUTCOMES
from prefine.run.tables import existing_parts
from prefine.run.view import TOKEN_LOGPS, RunView
from prefine.stages.bridged import BRIDGED_PAIRS
from prefine.view.database import Database
from prefine.view.loading import EVALUATED, FACTS, KEPT, LOADS, PLACES, TABLES

_AT_ONCE = 8
"""Parts that are read together."""
_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.7
"""Between two looks at the files of a run."""
_CONTEST_ROWS = 5_000
_SHOWN = 300
_TOKENS = TOKEN_LOGPS

_UNREADABLE = (
    duckdb.Error,
    PrefineError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)
"""Errors of files of another shape: a line that is no object, a text for a number."""

Signature = tuple[tuple[str, int, int], ...]
"""Names, times and sizes of files."""


class ReadState(NamedTuple):
    """The progress of reading files; `whole` once the facts have everything that there is."""

    parts_read: int
    parts: int
    whole: bool
    problems: tuple[str, ...]


class Unit(NamedTuple):
    """Files that are read together: parts of a table of one round, or another file."""

    round: int
    folder: Path
    table: str
    number: int

    @property
    def order(self) -> tuple[int, int, int]:
        """First parts of all tables come first, so that a first page can be shown."""
        names = [load.folder for load in LOADS]
        return self.number, self.round, names.index(self.table) if self.table in names else 99


class PromptIndex:
    """The facts of the prompts of a run, or of several rounds.

    Args:
        folders: The run folders, each with the number of its round.
    """

    def __init__(self, folders: Sequence[tuple[int, Path]]) -> None:
        self.folders = list(folders)
        self.database = Database([path for _, path in self.folders])
        for statement in (*TABLES.split(";")[:-1], FACTS):
            self.database.rows(statement)
        self._units: dict[Unit, tuple[int, Signature]] = {}
        self._wanted: dict[Unit, Signature] = {}
        self._problems: dict[Unit, str] = {}
        self._no_facts = ""
        """Why the facts are not those of all that was read."""
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._closed = False
        self._looked = 0.0
        self._thread: threading.Thread | None = None
        self.version = 0
        """Grows whenever the facts change."""

    def look(self, wait_s: float = 0.25) -> ReadState:
        """Look whether files have changed, read what has, and return how far that is.

        Args:
            wait_s: At most so long for what is being read.
        """
        with self._lock:
            if time.monotonic() - self._looked > _LOOK_EVERY_S:
                self._wanted = {unit: signature for unit, signature in self._files()}
                self._looked = time.monotonic()
            idle = self._thread is None or not self._thread.is_alive()
            if idle and (self._work() or self._no_facts) and not self._closed:
                self._idle.clear()
                self._thread = threading.Thread(target=self._read_all, daemon=True)
                self._thread.start()
            reading = self._thread is not None and self._thread.is_alive()
        if reading:
            self._idle.wait(wait_s)
        with self._lock:
            done = sum(
                len(signature)
                for unit, signature in self._wanted.items()
                if self._units.get(unit, (0, ()))[1] == signature
            )
            total = sum(map(len, self._wanted.values()))
            alive = self._thread is not None and self._thread.is_alive()
            problems = [*self._problems.values(), *filter(None, [self._no_facts])]
            whole = done == total and not alive and not self._no_facts
            return ReadState(done, total, whole, tuple(problems))

    def stop(self) -> None:
        """Read no further."""
        self._closed = True

    def close(self) -> None:
        """End everything that is being computed, before the process ends."""
        self.stop()
        self.database.interrupt()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)

    def files(self, table: str, rounds: Sequence[int] | None = None) -> list[str]:
        """The parts of a table in order, those that have been read.

        Args:
            table: Its folder below the run.
            rounds: Of these alone.
        """
        return [file for _, _, files in self.chunks(table, rounds) for file in files]

    def chunks(
        self, table: str, rounds: Sequence[int] | None = None
    ) -> list[tuple[int, int, tuple[str, ...]]]:
        """The parts that are read together: the place of the first prompt, the round, the files."""
        with self._lock:
            units = [
                (unit, signature)
                for unit, (_, signature) in self._units.items()
                if unit.table == table and (rounds is None or unit.round in rounds)
            ]
        base = EVALUATED if table.startswith("evaluation/") else 0
        found = [
            (
                base + unit.number * PLACES,
                unit.round,
                tuple(str(unit.folder / table / name) for name, _, _ in signature),
            )
            for unit, signature in units
        ]
        return sorted(found, key=lambda one: (one[1], one[0]))

    def rows_of(self, table: str, round_: int, prompt_id: str) -> list[dict[str, Any]]:
        """The rows that a table has of a prompt, from the parts that have some.

        Args:
            table: Its folder below the run.
            round_: Of the prompt.
            prompt_id: Its id.
        """
        load = next(one for one in LOADS if one.folder == table)
        # The name is one of ours; so is that of the column.
        known = self.database.rows(
            f"SELECT DISTINCT unit FROM {load.kept} WHERE round = ? AND prompt_id = ?",
            [round_, prompt_id],
        )
        numbers = {number for (number,) in known}
        with self._lock:
            files = [
                str(unit.folder / table / name)
                for unit, (number, signature) in self._units.items()
                if number in numbers and unit.table == table
                for name, _, _ in signature
            ]
        if not files:
            return []
        column = "prefine_prompt_id" if load.kept == "preferred" else "prompt_id"
        return self.database.dicts(
            f"SELECT * FROM read_parquet($files) WHERE {column} = $id",
            {"files": sorted(files), "id": prompt_id},
        )

    def _work(self) -> list[Unit]:
        """The units to read, and those to forget: their files are gone."""
        changed = [
            unit
            for unit, signature in self._wanted.items()
            if self._units.get(unit, (0, ()))[1] != signature
        ]
        gone = [unit for unit in self._units if unit not in self._wanted]
        return sorted(changed + gone, key=lambda unit: unit.order)

    def _files(self) -> Iterator[tuple[Unit, Signature]]:
        for number, path in self.folders:
            not_shown = _not_shown(path)
            for load in LOADS:
                if load.folder == not_shown:
                    continue
                parts = existing_parts(path / load.folder)
                size = len(parts) if load.whole else _AT_ONCE
                for start in range(0, len(parts), size or 1):
                    signature = _signature(parts[start : start + size])
                    if signature:
                        yield Unit(number, path, load.folder, start // size), signature
            for name in (OUTCOMES, _TOKENS):
                found = [path / name] if name == OUTCOMES else existing_parts(path / name)
                if signature := _signature(found):
                    yield Unit(number, path, name, 0), signature

    def _read_all(self) -> None:
        try:
            self._read_changes()
        except duckdb.InterruptException:
            if not self._closed:
                raise
        finally:
            self._idle.set()

    def _read_changes(self) -> None:
        """Read what has changed; the facts are made anew ever less often on the way."""
        pause, made = 0.0, time.monotonic()
        read_number: int | None = None
        while True:
            with self._lock:
                work = self._work()
                unit = work[0] if work else None
                signature = self._wanted.get(unit) if unit else None
                reading = self.version == 0 and unit is not None and read_number is not None
            if unit is None or self._closed:
                break
            first_page = reading and unit.number != read_number
            if first_page or (self.version and time.monotonic() - made > pause):
                self._make_facts()
                made, pause = time.monotonic(), 2 * pause + 0.5
                if first_page:
                    self._idle.set()
            read_number = unit.number
            self._read(unit, signature)
        if not self._closed:
            self._make_facts()

    def _make_facts(self) -> None:
        try:
            self.database.rows(FACTS)
        except duckdb.Error as error:
            self._no_facts = _problem(self.folders[0][1], error)
        else:
            self._no_facts = ""
            self.version += 1

    def _read(self, unit: Unit, signature: Signature | None) -> None:
        known = self._units.get(unit)
        if known is not None:
            for table in KEPT:
                # The name is one of five of ours.
                self.database.rows(f"DELETE FROM {table} WHERE unit = ?", [known[0]])
        number = known[0] if known else 1 + max((n for n, _ in self._units.values()), default=0)
        problem = None
        if signature is not None:
            try:
                self._insert(unit, number, signature)
            except _UNREADABLE as error:
                problem = _problem(unit.folder / unit.table, error)
        with self._lock:
            self._problems.pop(unit, None)
            if signature is None:
                self._units.pop(unit, None)
                return
            if problem is not None:
                self._problems[unit] = problem
            self._units[unit] = (number, signature)

    def _insert(self, unit: Unit, number: int, signature: Signature) -> None:
        if unit.table == OUTCOMES:
            self._insert_outcomes(unit, number)
        elif unit.table == _TOKENS:
            self._insert_scores(unit, number)
        else:
            load = next(one for one in LOADS if one.folder == unit.table)
            files = [str(unit.folder / unit.table / name) for name, _, _ in signature]
            self._check_version(files)
            values = {
                "unit": number,
                "round": unit.round,
                "number": unit.number,
                "kind": load.kind,
                "held_out": load.kind == "held-out",
                "files": files,
            }
            for statement in load.statements:
                used = {name: value for name, value in values.items() if f"${name}" in statement}
                self.database.rows(statement, used)

    def _check_version(self, files: Sequence[str]) -> None:
        stated = self.database.rows(
            "SELECT file_name, decode(value) FROM parquet_kv_metadata($files) "
            "WHERE decode(key) = 'prefine_schema_version'",
            {"files": files},
        )
        other = [version for _, version in stated if version != str(SCHEMA_VERSION)]
        if other or len(stated) < len(files):
            said = f"schema version {other[0]}" if other else "no schema version"
            raise ValueError(f"{said}; this prefine reads {SCHEMA_VERSION}")

    def _insert_outcomes(self, unit: Unit, number: int) -> None:
        rows: list[dict[str, Any]] = []
        start = 0
        with (unit.folder / unit.table).open("rb") as file:
            for place, line in enumerate(file):
                if line.endswith(b"\n"):
                    rows.append(_contest(json.loads(line), place, start))
                start += len(line)
                if len(rows) == _CONTEST_ROWS:
                    self._add_contests(unit, number, rows)
                    rows = []
        self._add_contests(unit, number, rows)

    def _add_contests(self, unit: Unit, number: int, rows: list[dict[str, Any]]) -> None:
        self.database.rows(
            "INSERT INTO contested SELECT $unit, $round, r.place, r.prompt_id, r.shown, r.p_after, "
            "r.gold_before, r.gold_after, r.ratio, r.constraints, r.start FROM (SELECT "
            "unnest($rows::STRUCT(place BIGINT, prompt_id VARCHAR, shown VARCHAR, p_after DOUBLE, "
            "gold_before DOUBLE, gold_after DOUBLE, ratio DOUBLE, constraints VARCHAR[], "
            "start BIGINT)[]) AS r)",
            {"unit": number, "round": unit.round, "rows": rows},
        )

    def _insert_scores(self, unit: Unit, number: int) -> None:
        items: dict[tuple[str, str], dict[str, float]] = {}
        for one in RunView(unit.folder).token_logps():
            change = sum(one.logps) - sum(one.initial_logps)
            items.setdefault((one.prompt_id, one.item_id), {})[one.role] = change
        rows = [
            {
                "prompt_id": prompt_id,
                "fall": -found["chosen"],
                "margin": found["chosen"] - found["rejected"] if "rejected" in found else None,
            }
            for (prompt_id, _), found in items.items()
            if "chosen" in found
        ]
        self.database.rows(
            "INSERT INTO scored SELECT $unit, $round, r.prompt_id, r.margin, r.fall FROM (SELECT "
            "unnest($rows::STRUCT(prompt_id VARCHAR, margin DOUBLE, fall DOUBLE)[]) AS r)",
            {"unit": number, "round": unit.round, "rows": rows},
        )


def _problem(path: Path, error: Exception) -> str:
    return f"{path}: {' '.join(str(error).split())[:300]}"


def _contest(row: dict[str, Any], place: int, start: int) -> dict[str, Any]:
    golds = row.get("gold_before"), row.get("gold_after")
    before, after = (fmean(gold.values()) if gold else None for gold in golds)
    return {
        "place": EVALUATED + place,
        "prompt_id": row["prompt_id"],
        "shown": row["prompt"][:_SHOWN],
        "p_after": row.get("p_after"),
        "gold_before": before,
        "gold_after": after,
        "ratio": len(row["after"]) / max(1, len(row["before"])),
        "constraints": sorted(golds[1] or ()),
        "start": start,
    }


def _not_shown(folder: Path) -> str:
    """The table of pairs that are not trained on: those before bridging, once all are bridged."""
    before, after = (len(existing_parts(folder / name)) for name in ("pairs", BRIDGED_PAIRS))
    return "pairs" if after and after >= before else BRIDGED_PAIRS


def _signature(paths: Sequence[Path]) -> Signature:
    """The state of files; those that have gone meanwhile are left out."""
    found = []
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, state.st_mtime_ns, state.st_size))
    return tuple(found)
