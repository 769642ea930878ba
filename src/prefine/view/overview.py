"""What the list of runs and the page of one say: headline, status, settings, cost, failures."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from prefine.compare.runs import status_words
from prefine.config.sections import RunConfig
from prefine.errors import DataError, PrefineError
from prefine.records import Manifest, Usage
from prefine.report.data import Evaluation, ReportData
from prefine.report.outcome import Headline, headline
from prefine.rounds.page import RESULT as ROUNDS_RESULT
from prefine.rounds.results import RoundsResult
from prefine.run.config_changes import differing_settings, with_new_defaults
from prefine.run.tables import parse
from prefine.run.view import RunView
from prefine.stages.report import report_data
from prefine.sweep.results import SweepResult
from prefine.view.index import PromptIndex
from prefine.view.places import RunPlace

SWEEP_RESULT = "sweep.json"
_AT_WORK_S = 15.0
"""A run writes its manifest every second while it works; so old, it has stopped."""
_PLACES = ("run_dir", "lineage")
"""Settings that say where a run lies, and differ between any two."""
_MOST_REASONS = 12


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
    count: int
    prompts: tuple[tuple[int, str], ...]
    words: str


def run_lines(places: Sequence[RunPlace]) -> list[RunLine]:
    """A line for each run, round and trial, in order."""
    lines: list[RunLine] = []
    for place in places:
        lines.append(_line(place, None if place.kind != "run" else _before(lines, place)))
        previous = None
        for part in place.parts:
            line = _line(part, previous)
            lines.append(line)
            previous = line
    return lines


def _before(lines: Sequence[RunLine], place: RunPlace) -> RunLine | None:
    """The run before it in the same folder."""
    for line in reversed(lines):
        if line.place.parent is None and line.place.kind == "run" and not line.problem:
            return line if line.place.path.parent == place.path.parent else None
    return None


def _line(place: RunPlace, neighbour: RunLine | None) -> RunLine:
    if place.kind == "sweep":
        return _of_parts(place, f"{len(place.parts)} trials")
    try:
        view = RunView(place.path)
        manifests = view.manifests()
        if place.kind == "rounds":
            return _of_parts(place, f"{len(place.parts)} rounds")
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


def _of_parts(place: RunPlace, words: str) -> RunLine:
    """The line of several rounds or trials."""
    read: list[Mapping[str, Manifest]] = []
    for part in place.parts:
        try:
            read.append(RunView(part.path).manifests())
        except (PrefineError, OSError):
            continue
    ended = sum(status_words(one) == "ended" for one in read)
    began = [one.began_at or "" for stages in read for one in stages.values()]
    return RunLine(
        place=place,
        status=f"{words}, {ended} ended",
        working=any(map(lambda pair: is_working(pair[0].path, pair[1]), zip(place.parts, read))),
        headline=None,
        began_at=min((one for one in began if one), default=""),
        prompts=0,
        usage=sum((one.usage for stages in read for one in stages.values()), Usage()),
    )


def is_working(path: Path, manifests: Mapping[str, Manifest]) -> bool:
    """Return True for a run that writes: a stage is open and its manifest is seconds old."""
    if not any(not one.complete and one.stopped_by is None for one in manifests.values()):
        return False
    try:
        return time.time() - (path / "manifest.json").stat().st_mtime < _AT_WORK_S
    except FileNotFoundError:
        return False


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
    """What the report of a run shows, of a finished run or one that works.

    Raises:
        PrefineError: A file is damaged.
    """
    view = RunView(path)
    config = RunConfig.model_validate({**with_new_defaults(view.config()), "run_dir": str(path)})
    return report_data(config, view)


def rounds_result(path: Path) -> RoundsResult | None:
    """The figures of all rounds; None before the first has ended."""
    return _result(RoundsResult, path / ROUNDS_RESULT)


def sweep_result(path: Path) -> SweepResult | None:
    """The figures of a sweep; None before it has ended."""
    return _result(SweepResult, path / SWEEP_RESULT)


def _result(kind: Any, path: Path) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); run the command that makes it again") from error
    return parse(kind, values, where=str(path))


def failure_reasons(index: PromptIndex) -> list[FailureReason]:
    """The most frequent reasons for which verdicts failed."""
    found: list[FailureReason] = []
    for number, _ in index.folders:
        files = index.files("judgments", [number]) + index.files("evaluation/judgments", [number])
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
    return sorted(found, key=lambda one: -one.count)[:_MOST_REASONS]
