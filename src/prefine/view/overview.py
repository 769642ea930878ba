"""The facts of runs for their list and pages: headline, status, settings, cost, failures."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

from pydantic import ValidationError

from prefine.compare.runs import status_words
from prefine.config.sections import RunConfig
from prefine.errors import DataError, PrefineError
from prefine.records import Manifest, Usage
from prefine.report.data import Evaluation, ReportData
from prefine.report.outcome import Headline, headline, verdict
from prefine.report.text import plural
from prefine.rounds.page import RESULT as ROUNDS_RESULT
from prefine.rounds.results import RoundsResult, cell, rate
from prefine.run.config_changes import differing_settings, with_new_defaults
from prefine.run.tables import parse
from prefine.run.view import RunView
from prefine.stages.report import report_data
from prefine.sweep.results import SweepResult
from prefine.sweep.text import name_words, with_interval
from prefine.view.index import PromptIndex
from prefine.view.loading import JUDGED
from prefine.view.places import RunPlace

SWEEP_RESULT = "sweep.json"
_AT_WORK_S, _TRAINING_S = 15.0, 180.0
"""A run at work writes its manifest every second, and while it trains a log; so old, it has
stopped."""
_WRITTEN = ("manifest.json", "train_log.jsonl", "eval_log.jsonl")
_PLACES = ("run_dir", "lineage")
"""Settings that say where a run lies, and differ between any two."""
_MOST_REASONS = 12
R = TypeVar("R", RoundsResult, SweepResult)
_State: TypeAlias = tuple[tuple[int, int], ...]


class SettingChange(NamedTuple):
    """A setting with its value in the neighbour of a run, and in the run."""

    path: str
    before: Any
    now: Any


class RunLine(NamedTuple):
    """A run in the list of all.

    `changes` are the settings in which it differs from the run before it in the list, `neighbour`
    that run's name; `problem` is why the run cannot be read.
    """

    place: RunPlace
    status: str
    working: bool
    headline: Headline | None
    began_at: str
    prompts: int
    usage: Usage
    changes: tuple[SettingChange, ...] = ()
    neighbour: str = ""
    problem: str = ""


class FailureReason(NamedTuple):
    """Verdicts that failed for one reason, with examples of prompts and of the judge's words."""

    reason: str
    times: int
    prompts: tuple[tuple[int, str], ...]
    words: str


class RunLines:
    """The lines of runs, kept as long as their small files are as they were."""

    def __init__(self) -> None:
        self._known: dict[tuple[RunPlace, RunPlace | None], tuple[_State, RunLine]] = {}

    def of(self, places: Sequence[RunPlace]) -> list[RunLine]:
        """Return a line for each run, round and trial, in order."""
        lines: list[RunLine] = []
        for place in places:
            lines.append(self._line(place, None if place.kind != "run" else _before(lines, place)))
            previous = None
            for part in place.parts:
                previous = self._line(part, previous)
                lines.append(previous)
        return lines

    def _line(self, place: RunPlace, neighbour: RunLine | None) -> RunLine:
        if place.kind != "run":
            return _line(place, neighbour)
        others = neighbour.place if neighbour is not None else None
        files = ("config.json", "metrics.json", *_WRITTEN)
        state = _state(place.path, files)
        if others is not None:
            state += _state(others.path, files)
        known = self._known.get((place, others))
        if known is None or known[0] != state or known[1].working:
            known = self._known[place, others] = state, _line(place, neighbour)
        return known[1]


def _state(path: Path, names: Sequence[str]) -> _State:
    """The times and sizes of files, zeros of one that there is not."""
    found = []
    for name in names:
        try:
            state = (path / name).stat()
        except FileNotFoundError:
            found.append((0, 0))
        else:
            found.append((state.st_mtime_ns, state.st_size))
    return tuple(found)


def _before(lines: Sequence[RunLine], place: RunPlace) -> RunLine | None:
    """The run before it in the same folder."""
    for line in reversed(lines):
        if line.place.parent is None and line.place.kind == "run" and not line.problem:
            return line if line.place.path.parent == place.path.parent else None
    return None


def _line(place: RunPlace, neighbour: RunLine | None) -> RunLine:
    try:
        if place.kind == "sweep":
            return _of_parts(place)
        view = RunView(place.path)
        manifests = view.manifests()
        if place.kind == "rounds":
            return _of_parts(place)
        changes: tuple[SettingChange, ...] = ()
        if neighbour is not None and not neighbour.problem:
            changes = tuple(setting_changes(neighbour.place.path, place.path))
        return RunLine(
            place=place,
            status=status_words(manifests),
            working=is_working(place.path, manifests),
            headline=_headline(view, manifests) if manifests else None,
            began_at=next((one.began_at for one in manifests.values() if one.began_at), "") or "",
            prompts=next((one.counts.taken for one in manifests.values()), 0),
            usage=sum((one.usage for one in manifests.values()), Usage()),
            changes=changes,
            neighbour=neighbour.place.path.name if neighbour is not None else "",
        )
    except (PrefineError, OSError, ValidationError) as error:
        return RunLine(place, "", False, None, "", 0, Usage(), problem=str(error))


def _of_parts(place: RunPlace) -> RunLine:
    """The line of several rounds or trials."""
    read: list[tuple[RunPlace, Mapping[str, Manifest]]] = []
    for part in place.parts:
        try:
            read.append((part, RunView(part.path).manifests()))
        except (PrefineError, OSError):
            continue
    ended = sum(status_words(stages) == "ended" for _, stages in read)
    began = [one.began_at or "" for _, stages in read for one in stages.values()]
    what = "round" if place.kind == "rounds" else "trial"
    count = len(place.parts)
    return RunLine(
        place=place,
        status="ended" if ended == count else f"{ended} of {count} {what}s ended",
        working=any(is_working(part.path, stages) for part, stages in read),
        headline=_headline_of_parts(place),
        began_at=min((one for one in began if one), default=""),
        prompts=0,
        usage=sum((one.usage for _, stages in read for one in stages.values()), Usage()),
    )


def _headline_of_parts(place: RunPlace) -> Headline | None:
    if place.kind == "sweep":
        sweep = sweep_result(place.path)
        if sweep is None:
            return None
        seeds = plural(len(sweep.settings[0].seeds), "seed")
        settings = f"{plural(len(sweep.settings), 'setting')}, {seeds} each"
        if sweep.best_score is None:
            return Headline("unknown", settings)
        on_others = f"on prompts that have not chosen it, {with_interval(sweep.best_score)} %"
        best = name_words(sweep, sweep.best_on_half)
        return Headline("unknown", f"{settings}; the best is {best}", f"({on_others})")
    walked = rounds_result(place.path)
    if walked is None or not walked.rounds:
        return None
    last = walked.rounds[-1]
    found = last.figures.over_initial
    win_rate = rate(found, "gold") or rate(found, "judge")
    said = f"{len(walked.rounds)} of {walked.count} rounds"
    if win_rate is None:
        return Headline("unknown", said)
    role = "gold" if rate(found, "gold") else "the judge"
    return Headline(
        verdict(win_rate),
        f"{said}; the last one wins {cell(win_rate)} % over the initial policy by {role}",
    )


def is_working(path: Path, manifests: Mapping[str, Manifest]) -> bool:
    """Return True for a run that writes: a stage is open, and what it writes is not old."""
    at_work = {name for name, one in manifests.items() if not one.complete and not one.stopped_by}
    if not at_work:
        return False
    written = max(time_ns for time_ns, _ in _state(path, _WRITTEN))
    return time.time() - written / 1e9 < (_TRAINING_S if "train" in at_work else _AT_WORK_S)


def setting_changes(before: Path, now: Path) -> Iterator[SettingChange]:
    """The settings in which two runs differ, today's defaults counted."""
    configs = [
        {**with_new_defaults(RunView(path).config()), **dict.fromkeys(_PLACES)}
        for path in (before, now)
    ]
    for path, (old, new) in differing_settings(configs).items():
        yield SettingChange(path, old, new)


def _headline(view: RunView, manifests: Mapping[str, Manifest]) -> Headline:
    """The report's headline, from what the run says in a few small files."""
    evaluation = None
    found = view.json("metrics.json") if "evaluate" in manifests else None
    if found:
        evaluation = parse(Evaluation, found, where=str(view.path / "metrics.json"))
    stages = [name for name in manifests if name != "report"]
    unfinished = next((name for name in stages if not manifests[name].complete), None)
    data = ReportData(
        title="",
        run_name=view.path.name,
        policy="",
        baseline=evaluation.baseline if evaluation else "initial",
        stages=(),
        unfinished=unfinished,
        stopped_by=manifests[unfinished].stopped_by if unfinished else None,
        contests=evaluation.contests if evaluation else (),
        metrics=evaluation.metrics if evaluation else (),
    )
    return headline(data)


def read_report(path: Path) -> ReportData:
    """Return what the report of a run shows, of a finished run or one that works.

    Raises:
        PrefineError: A file is damaged.
    """
    view = RunView(path)
    values = {**with_new_defaults(view.config()), "run_dir": str(path)}
    try:
        return report_data(RunConfig.model_validate(values), view)
    except ValueError as error:
        raise DataError(f"{path}: damaged, or of another version ({error})") from error


def rounds_result(path: Path) -> RoundsResult | None:
    """The figures of all rounds; None before the first has ended."""
    return _result(RoundsResult, path / ROUNDS_RESULT, report="")


def sweep_result(path: Path) -> SweepResult | None:
    """The figures of a sweep; None before it has ended."""
    return _result(SweepResult, path / SWEEP_RESULT)


def _result(kind: type[R], path: Path, **others: str) -> R | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(
            f"{path}: damaged ({error}); run the command that makes it again"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: damaged (no object); run the command that makes it again")
    return parse(kind, values | others, where=str(path))


def failure_reasons(index: PromptIndex) -> list[FailureReason]:
    """The most frequent reasons for which verdicts failed."""
    found: list[FailureReason] = []
    for number, _ in index.folders:
        files = [file for table in JUDGED for file in index.files(table, [number])]
        if not files:
            continue
        rows = index.database.rows(
            "SELECT error, count(*), list(DISTINCT prompt_id)[:3], "
            "arg_min(raw_text, prompt_id) FROM read_parquet($files) WHERE error IS NOT NULL "
            "GROUP BY error ORDER BY count(*) DESC, error LIMIT $most",
            {"files": files, "most": _MOST_REASONS},
        )
        found += [
            FailureReason(reason, count, tuple((number, id_) for id_ in ids), words or "")
            for reason, count, ids, words in rows
        ]
    return sorted(found, key=lambda one: -one.times)[:_MOST_REASONS]
