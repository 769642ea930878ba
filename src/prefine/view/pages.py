"""The values of each page, from an address."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.exceptions import HTTPException
from starlette.requests import Request

from prefine.errors import ConfigError, PrefineError
from prefine.report import outcome
from prefine.report.text import plural
from prefine.rounds.page import pictures as rounds_pictures
from prefine.rounds.results import rows_of as rounds_rows
from prefine.run.view import RunView
from prefine.sweep.page import shown as shown_sweep
from prefine.view.chart_data import charts, figure
from prefine.view.choices import choices
from prefine.view.compared import compared
from prefine.view.duels import graph, ranked, rows
from prefine.view.heat import heat
from prefine.view.index import ReadState
from prefine.view.markdown import PageTexts
from prefine.view.notes import LONGEST, ReaderNote
from prefine.view.overview import (
    failure_reasons,
    is_working,
    read_report,
    rounds_result,
    setting_changes,
    sweep_result,
)
from prefine.view.places import RunPlace
from prefine.view.prompt import read_prompt
from prefine.view.query import PromptQuery
from prefine.view.search import PAGE, Key
from prefine.view.viewer import OpenRun, Runs, Viewer
from prefine.view.words import changed

Values = dict[str, Any]
_NO_PROMPT = "this run has no such prompt"


def runs(viewer: Viewer, request: Request) -> Values:
    """The list of runs."""
    del request
    found = viewer.runs()
    if len(found.places) == 1:
        # It is what will be opened next, so its facts are begun to be read.
        viewer.open(found.places[0], found).index.look(wait_s=0)
    lines = viewer.lines.of(found.places)
    return {
        "crumbs": [("Runs", "")],
        "lines": lines,
        "roots": [str(root) for root in viewer.roots],
        "working": any(line.working for line in lines),
        "shown_value": _shown_value,
    }


def run(viewer: Viewer, request: Request) -> Values:
    """The page of a run, of several rounds or of a sweep."""
    place, found = _place(viewer, request)
    values: Values = {
        "crumbs": _crumbs(place, found),
        "place": place,
        "parts": viewer.lines.of(place.parts) if place.parts else [],
        "shown_value": _shown_value,
        "working": False,
        "data": None,
        "rounds": None,
        "sweep": None,
        "failures": [],
        "charts": [],
        "notes": None,
    }
    if place.kind == "sweep":
        result = sweep_result(place.path)
        values |= shown_sweep(result) if result else {}
    elif place.kind == "rounds":
        walked = rounds_result(place.path)
        heading, *table = rounds_rows(walked) if walked else ((),)
        values |= {
            "rounds": walked,
            "heading": heading,
            "rows": table,
            "pictures": rounds_pictures(walked) if walked else [],
        }
    else:
        values |= _one_run(viewer, place, found)
    values["working"] = values["working"] or any(line.working for line in values["parts"])
    return values


def _one_run(viewer: Viewer, place: RunPlace, found: Runs) -> Values:
    data = read_report(place.path)
    view = RunView(place.path)
    manifests = view.manifests()
    open_run = viewer.open(place, found)
    state = open_run.look()
    before = _neighbour(place, found)
    try:
        changes = list(setting_changes(before.path, place.path)) if before else []
    except (PrefineError, OSError):
        # The run before it is damaged, which its own page says.
        before, changes = None, []
    return {
        "data": data,
        "outcome": outcome,
        "headline": outcome.headline(data),
        "verdict_line": outcome.verdict_line(data),
        "alarm": outcome.alarm(data.contests),
        "warnings": [one for one in data.warnings if not one.startswith(outcome.EXPLOITED)],
        "hero": next(
            iter(outcome.gold_first([c for c in data.contests if c.wins + c.ties + c.losses])),
            None,
        ),
        "seconds": sum(stage.seconds for stage in data.stages) or 1,
        "calls": sum(stage.calls for stage in data.stages) or 1,
        "manifests": manifests,
        "working": is_working(place.path, manifests) or not state.whole,
        "charts": [figure(one) for one in charts(view)],
        "failures": failure_reasons(open_run.index),
        "reading": state,
        "neighbour": before,
        "changes": changes,
    }


def prompts(viewer: Viewer, request: Request) -> Values:
    """The list of prompts."""
    place, found = _place(viewer, request)
    query = PromptQuery.of(request.query_params)
    open_run = viewer.open(place, found)
    state = open_run.look()
    page = open_run.searches.page(query)
    notes = {
        (row["round"], row["prompt_id"]): row
        for row in open_run.index.database.dicts("SELECT * FROM noted")
    }
    return {
        "crumbs": [*_crumbs(place, found, last=False), ("Prompts", "")],
        "place": place,
        "base": f"/run/{place.key}/prompts",
        "query": query,
        "found": page,
        "first": (query.page - 1) * PAGE + 1,
        "notes": notes,
        "working": not state.whole,
        "reading": state,
        "choices": choices(open_run.index),
        "prompt_link": lambda row: _prompt_link(
            place, (row["round"], row["prompt_id"]), query.link(page=1)
        ),
        "plural": plural,
    }


def prompt(viewer: Viewer, request: Request) -> Values:
    """The page of one prompt."""
    place, found = _place(viewer, request)
    query = PromptQuery.of(request.query_params)
    raw = _one_of(request.query_params, "as", ("raw", "text")) == "raw"
    key = (int(request.path_params["round"]), request.path_params["id"])
    open_run = viewer.open(place, found)
    state = _look_for(open_run, key)
    one = read_prompt(open_run.index, *key)
    if one is None:
        raise HTTPException(404, _NO_PROMPT)
    beside = open_run.searches.beside(query, key)
    suffix = query.link(page=1)

    def link(other: Key | None, *, as_raw: bool = raw) -> str:
        if other is None:
            return ""
        address = _prompt_link(place, other, suffix)
        return _as_raw(address) if as_raw else address

    names = one.names
    contest = one.contest
    return {
        "crumbs": [
            *_crumbs(place, found, last=False),
            ("Prompts", f"/run/{place.key}/prompts{suffix}"),
            (one.facts["shown"][:60] or one.facts["prompt_id"], ""),
        ],
        "place": place,
        "one": one,
        "facts": one.facts,
        "raw": raw,
        "rendered": PageTexts().rendered,
        "list_link": f"/run/{place.key}/prompts{suffix}",
        "previous": link(beside.before),
        "next": link(beside.after),
        "beside": beside,
        "toggle": link(key, as_raw=not raw),
        "here": link(key),
        "note": open_run.note_of(*key),
        "longest_note": LONGEST,
        "graph": graph(one.ranking, one.judgments, names)
        if one.ranking is not None and one.judgments
        else None,
        "duels": rows(
            one.judgments, names=names, order=ranked(one.ranking) if one.ranking else None
        )
        if one.judgments
        else [],
        "across": rows(one.across, names=one.names_across) if one.across else [],
        "apart": changed(contest.before, contest.after) if contest else None,
        "verdicts": rows(contest.judgments, names=contest.names)
        if contest and contest.judgments
        else [],
        "heats": [(item, heat(item.tokens, item.logps, item.initial_logps)) for item in one.tokens],
        "selector": _selector(place),
        "dropped": _dropped(place, key[0]),
        "query_text": suffix,
        "working": not state.whole,
    }


def _look_for(open_run: OpenRun, key: Key) -> ReadState:
    """Look at what has changed, until a prompt is found.

    Raises:
        HTTPException: The run has no such prompt, or it has not been read so far.
    """
    state, found = open_run.look_for(*key)
    if found:
        return state
    if state.whole or state.problems:
        raise HTTPException(404, _NO_PROMPT)
    parts = f"{state.parts_read:,} of {state.parts:,} parts"
    raise HTTPException(
        503,
        f"this prompt has not been read yet ({parts} of the run have); the page loads itself again",
        headers={"Refresh": "3", "Retry-After": "3"},
    )


def compare(viewer: Viewer, request: Request) -> Values:
    """Runs side by side."""
    found = viewer.runs()
    keys = list(dict.fromkeys(request.query_params.getlist("run")))
    unknown = [key for key in keys if key not in found.by_key]
    if unknown:
        raise HTTPException(404, "one of these runs is not among those of this viewer")
    common = _one_of(request.query_params, "common", ("1",)) == "1"
    paths = [found.by_key[key].path for key in keys]
    return {
        **compared(paths, common=common),
        "run_keys": keys,
        "crumbs": [("Runs", "/"), ("Compare", "")],
        "working": False,
    }


def exported_notes(viewer: Viewer, key: str) -> Iterator[str]:
    """The notes of a run as lines."""
    found = viewer.runs()
    place = found.by_key.get(key)
    if place is None:
        raise HTTPException(404, "no such run")
    open_run = viewer.open(place, found)
    numbers = {number for number, _ in place.folders}
    for note in open_run.notes.read():
        if note.round in numbers:
            yield json.dumps(note.model_dump(mode="json"), ensure_ascii=False) + "\n"


def take_note(viewer: Viewer, key: str, form: Mapping[str, str]) -> str:
    """Keep a note; return the address of its prompt.

    Raises:
        ConfigError: It is too long, or cannot be written.
    """
    found = viewer.runs()
    place = found.by_key.get(key)
    number, prompt_id = form.get("round", ""), form.get("prompt_id", "")
    if place is None or not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise HTTPException(404, "no such run")
    open_run = viewer.open(place, found)
    _look_for(open_run, (int(number), prompt_id))
    words = form.get("note", "").replace("\r\n", "\n").strip()
    if len(words) > LONGEST:
        raise ConfigError(f"note: {len(words):,} characters; at most {LONGEST:,} are kept")
    note = ReaderNote(
        prompt_id=prompt_id, round=int(number), flag=form.get("flag") == "1", note=words
    )
    open_run.notes.add(note)
    query = PromptQuery.of(dict(parse_qsl(form.get("query", "").removeprefix("?"))))
    address = _prompt_link(place, (int(number), prompt_id), query.link(page=1))
    return _as_raw(address) if form.get("as") == "raw" else address


def _place(viewer: Viewer, request: Request) -> tuple[RunPlace, Runs]:
    found = viewer.runs()
    place = found.by_key.get(request.path_params["key"])
    if place is None:
        raise HTTPException(404, "no such run: it has been moved, or another viewer shows it")
    return place, found


def _crumbs(place: RunPlace, found: Runs, *, last: bool = True) -> list[tuple[str, str]]:
    crumbs = [("Runs", "/")]
    parent = found.by_key.get(place.parent or "")
    if parent is not None:
        crumbs.append((parent.name, f"/run/{parent.key}"))
    name = place.path.name if parent is not None else place.name
    return [*crumbs, (name, "" if last else f"/run/{place.key}")]


def _neighbour(place: RunPlace, found: Runs) -> RunPlace | None:
    """The run before it: of the same rounds or trials, or in the same folder."""
    parent = found.by_key.get(place.parent or "")
    others = (
        parent.parts
        if parent
        else [
            one
            for one in found.places
            if one.kind == "run" and one.path.parent == place.path.parent
        ]
    )
    at = [one.key for one in others].index(place.key)
    return others[at - 1] if at else None


def _prompt_link(place: RunPlace, key: Key, suffix: str) -> str:
    return f"/run/{place.key}/prompt/{key[0]}/{quote(key[1], safe='')}{suffix}"


def _as_raw(address: str) -> str:
    return f"{address}{'&' if '?' in address else '?'}as=raw"


def _selector(place: RunPlace) -> str:
    """The selector that made the pairs, with its options, as in the configuration."""
    path = place.folders[0][1]
    selector = RunView(path).config().get("pair", {}).get("selector") or {}
    if isinstance(selector, str):
        return selector
    options = ", ".join(f"{k}: {v}" for k, v in selector.items() if k != "name")
    return f"{selector.get('name', '')}{f' ({options})' if options else ''}"


def _dropped(place: RunPlace, number: int) -> list[tuple[str, int]]:
    """Why stage pair left out candidates, most frequent first."""
    path = next(path for each, path in place.folders if each == number)
    stage = RunView(path).manifests().get("pair")
    counts = stage.counts.dropped if stage else {}
    return sorted(counts.items(), key=lambda one: -one[1])


def _one_of(values: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = values.get(name, "")
    if value and value not in allowed:
        raise ConfigError(f"{name}={value[:80]}: choose {', '.join(allowed)}")
    return value


def _shown_value(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
