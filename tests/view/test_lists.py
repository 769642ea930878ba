"""Filters, orders and searches against the tables themselves, read with Python."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from prefine.errors import ConfigError
from prefine.records import (
    Completion,
    Judgment,
    LabelledCompletion,
    Message,
    PreferenceList,
    PreferencePair,
    Prompt,
)
from prefine.run.item_rows import label_row, list_row, pair_row
from prefine.run.rows import completion_rows
from prefine.run.tables import part_path, write_part
from prefine.run.view import RunView
from prefine.view import places
from prefine.view.index import PromptIndex
from prefine.view.loading import FACTS
from prefine.view.places import find_places
from prefine.view.query import PromptQuery
from prefine.view.search import PAGE, Searches
from view_place import Asked, small_run, view_run

ASKED = Prompt.make((Message(role="user", content="What is asked"),))
GOOD, BAD = (
    Completion(
        id=text,
        prompt_id=ASKED.id,
        sample_index=index,
        message=Message(role="assistant", content=text),
        model="m",
    )
    for index, text in enumerate(("a good one", "a bad one"))
)
Groups = list[tuple[Prompt, list[Completion]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def searches(run: Path) -> Searches:
    return read(run)


@pytest.fixture(scope="module")
def groups(run: Path) -> Groups:
    return list(RunView(run).completions())


def read(run: Path) -> Searches:
    """The lists of a run, once everything is read."""
    index = PromptIndex([(0, run)])
    while not (state := index.look()).whole:
        pass
    assert state.problems == ()
    return Searches(index)


def every(searches: Searches, query: PromptQuery) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    while True:
        page = searches.page(query)
        found += [row["prompt_id"] for row in page.rows]
        if not page.more:
            assert page.total == len(found)
            return found
        query = query._replace(page=query.page + 1)


def test_all_prompts_in_the_order_of_the_run(searches: Searches, groups: Groups, run: Path) -> None:
    outcomes = [row["prompt_id"] for row in RunView(run).outcomes()]
    assert every(searches, PromptQuery()) == [prompt.id for prompt, _ in groups] + outcomes


@pytest.mark.parametrize("name", view_run._SOURCES)
def test_source(searches: Searches, groups: Groups, name: str) -> None:
    expected = [prompt.id for prompt, _ in groups if prompt.metadata["source"] == name]
    assert every(searches, PromptQuery(source=name)) == expected


def test_truncated(searches: Searches, groups: Groups) -> None:
    expected = [
        prompt.id for prompt, answers in groups if any(a.finish_reason == "length" for a in answers)
    ]
    assert 0 < len(expected) < 600
    assert every(searches, PromptQuery(truncated=True)) == expected


def test_orders_disagree(searches: Searches, run: Path) -> None:
    shown: dict[tuple[str, frozenset[str]], list[Judgment]] = {}
    for one in RunView(run).judgments():
        both = frozenset((one.comparison.first, one.comparison.second))
        shown.setdefault((one.comparison.prompt_id, both), []).append(one)
    # In both orders the one that is shown first, or the one that is shown second, is preferred.
    expected = {
        prompt
        for (prompt, _), pair in shown.items()
        if len(pair) == 2 and pair[0].p_first == pair[1].p_first
    }
    assert 0 < len(expected) < 600
    assert set(every(searches, PromptQuery(disagree="orders"))) == expected
    assert every(searches, PromptQuery(disagree="judges")) == []


@pytest.mark.parametrize(("name", "p"), [("won", 1.0), ("tied", 0.5), ("lost", 0.0)])
def test_outcome(searches: Searches, run: Path, name: str, p: float) -> None:
    expected = [row["prompt_id"] for row in RunView(run).outcomes() if row["p_after"] == p]
    assert expected
    assert every(searches, PromptQuery(outcome=name)) == expected


@pytest.mark.parametrize("down", [True, False])
def test_sorted_by_gap(searches: Searches, run: Path, down: bool) -> None:
    gaps = {pair.prompt.id: pair.score_gap or 0.0 for pair in RunView(run).pairs()}
    expected = sorted(gaps, key=lambda id_: -gaps[id_] if down else gaps[id_])
    assert every(searches, PromptQuery(sort="gap", down=down)) == expected


def test_length_ratio(searches: Searches, run: Path) -> None:
    ratios = {
        pair.prompt.id: len(pair.chosen.text) / len(pair.rejected.text)
        for pair in RunView(run).pairs()
    }
    query = PromptQuery(shortest=1.02, longest=1.1, use="trained")
    expected = {id_ for id_, ratio in ratios.items() if 1.02 <= ratio <= 1.1}
    assert 0 < len(expected) < 600
    assert set(every(searches, query)) == expected


@pytest.mark.parametrize(
    ("scope", "texts"),
    [
        ("answers", lambda prompt, answers: [one.text for one in answers]),
        ("prompts", lambda prompt, answers: [prompt.text]),
        ("texts", lambda prompt, answers: [prompt.text, *(one.text for one in answers)]),
    ],
)
@pytest.mark.parametrize("word", ["cedi", "CEDI", view_run.NOWHERE])
def test_search(
    searches: Searches,
    groups: Groups,
    scope: str,
    texts: Callable[[Prompt, list[Completion]], list[str]],
    word: str,
) -> None:
    expected = [
        prompt.id
        for prompt, answers in groups
        if any(word.lower() in text.lower() for text in texts(prompt, answers))
    ]
    assert bool(expected) == (word != view_run.NOWHERE)
    query = PromptQuery(q=word, scope=scope, use="trained")
    assert every(searches, query) == expected


def test_search_in_the_judges_words(searches: Searches, run: Path) -> None:
    word = "first SAYS"
    expected = {
        one.comparison.prompt_id
        for one in RunView(run).judgments()
        if word.lower() in (one.raw_text or "").lower()
    }
    assert set(every(searches, PromptQuery(q=word, scope="judge"))) == expected


@pytest.mark.parametrize(
    "query",
    [
        PromptQuery(),
        PromptQuery(sort="gap"),
        PromptQuery(q="ba", use="trained"),
        PromptQuery(q="ba", sort="gap", down=False),
        PromptQuery(truncated=True, source="code"),
    ],
)
def test_neighbours_are_those_of_the_list(run: Path, query: PromptQuery) -> None:
    keys = [(0, id_) for id_ in every(read(run), query)]
    assert len(keys) > 20
    # Anew for each: what a search has found for one prompt must not decide what the next one says.
    searches = read(run)
    for place in (0, 1, PAGE - 1, PAGE, len(keys) // 2, len(keys) - 1):
        if place >= len(keys):
            continue
        beside = searches.beside(query, keys[place])
        assert beside.place == place + 1
        assert beside.before == (keys[place - 1] if place else None)
        assert beside.after == (keys[place + 1] if place + 1 < len(keys) else None)
    assert searches.beside(query, (0, "another")).place is None


def test_parts_that_come_change_and_go(tmp_path: Path, run: Path) -> None:
    live = tmp_path / "live"
    (live / "completions").mkdir(parents=True)
    parts = sorted((run / "completions").iterdir())
    searches = read(live)
    assert every(searches, PromptQuery()) == []
    for count, part in enumerate(parts, 1):
        (live / "completions" / part.name).write_bytes(part.read_bytes())
        assert len(every(again(searches), PromptQuery())) == min(600, 256 * count)
    found = len(every(searches, PromptQuery(q="cedi")))
    # The first part is replaced by what was the last one.
    (live / "completions" / parts[0].name).write_bytes(parts[-1].read_bytes())
    (live / "completions" / parts[-1].name).unlink()
    assert len(every(again(searches), PromptQuery())) == 256 + 600 - 512
    assert 0 < len(every(searches, PromptQuery(q="cedi"))) < found


def test_a_damaged_part_is_said_and_the_others_are_shown(tmp_path: Path, run: Path) -> None:
    for table in ("completions", "judgments"):
        (tmp_path / table).mkdir()
        for part in sorted((run / table).iterdir()):
            (tmp_path / table / part.name).write_bytes(part.read_bytes())
    (tmp_path / "judgments" / "part-00001.parquet").write_bytes(b"PAR1 torn")
    index = PromptIndex([(0, tmp_path)])
    while not (state := index.look()).whole:
        pass
    (problem,) = state.problems
    assert problem.startswith(f"{tmp_path / 'judgments'}: ")
    assert len(every(Searches(index), PromptQuery())) == 600


@pytest.mark.parametrize(
    "line", ["[1]", '"text"', '{"prompt_id": "a", "prompt": 3, "before": "b", "after": "c"}']
)
def test_a_line_of_another_shape_is_said_once(tmp_path: Path, run: Path, line: str) -> None:
    (tmp_path / "completions").mkdir()
    part = sorted((run / "completions").iterdir())[0]
    (tmp_path / "completions" / part.name).write_bytes(part.read_bytes())
    write_outcomes(tmp_path, [])
    (tmp_path / "evaluation" / "outcomes.jsonl").write_text(line + "\n")
    (tmp_path / "heldout_tokens").mkdir()
    (tmp_path / "heldout_tokens" / part.name).write_bytes(part.read_bytes())
    index = PromptIndex([(0, tmp_path)])
    deadline = time.monotonic() + 20
    while not (state := index.look()).whole:
        assert time.monotonic() < deadline
    assert [problem.split(": ")[0] for problem in sorted(state.problems)] == [
        str(tmp_path / "evaluation" / "outcomes.jsonl"),
        str(tmp_path / "heldout_tokens"),
    ]
    assert len(every(Searches(index), PromptQuery())) == 256


def test_facts_that_cannot_be_made_are_said_and_tried_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = PromptIndex([(0, run)])
    rows = index.database.rows

    def full(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        if statement == FACTS:
            raise duckdb.OutOfMemoryException("no room")
        return rows(statement, *values)

    with monkeypatch.context() as patch:
        patch.setattr(index.database, "rows", full)
        while not (state := index.look()).problems:
            pass
        assert state.problems == (f"{run}: no room",)
        assert not state.whole
    while not (state := index.look()).whole:
        pass
    assert state.problems == ()
    assert len(every(Searches(index), PromptQuery(use="trained"))) == 600


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("pairs", pair_row(PreferencePair(prompt=ASKED, chosen=GOOD, rejected=BAD))),
        ("lists", list_row(PreferenceList(prompt=ASKED, completions=(GOOD, BAD), scores=(2, 1)))),
        ("labels", label_row(LabelledCompletion(prompt=ASKED, completion=GOOD, desirable=True))),
    ],
)
def test_search_in_a_run_that_begins_with_items(
    tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    (tmp_path / name).mkdir()
    write_part(part_path(tmp_path / name, 0), name, [row], key="key")
    searches = read(tmp_path)
    for word, scope, there in (
        ("GOOD one", "answers", True),
        ("good one", "prompts", False),
        ("what is asked", "prompts", True),
        ("what is asked", "texts", True),
        ("what is asked", "answers", False),
    ):
        assert every(searches, PromptQuery(q=word, scope=scope)) == [ASKED.id] * there


def test_no_prompt_is_missed_by_a_search(tmp_path: Path) -> None:
    # The first answer of one prompt was lost; another prompt is known from its contest alone.
    groups = [
        (ASKED, [GOOD, BAD]),
        *(
            (prompt, [BAD.model_copy(update={"id": text, "prompt_id": prompt.id})])
            for text in ("What of ΟΔΟΣ", "Other")
            for prompt in (Prompt.make((Message(role="user", content=text),)),)
        ),
    ]
    (tmp_path / "completions").mkdir()
    rows = completion_rows(groups)
    write_part(part_path(tmp_path / "completions", 0), "completions", rows, key="key")
    contest = {"prompt_id": "seen", "before": "b", "after": "a", "p_after": 1.0}
    write_outcomes(tmp_path, [contest | {"prompt": "WHAT was seen"}])
    searches = read(tmp_path)
    first, second, _ = (prompt.id for prompt, _ in groups)
    assert every(searches, PromptQuery(q="what")) == [first, second, "seen"]
    assert every(searches, PromptQuery(q="what", scope="prompts")) == [first, second, "seen"]
    assert every(searches, PromptQuery(q="what", scope="answers")) == []
    # One way of making letters small for both: the last sigma of a word is not another letter.
    for word in ("ΟΔΟΣ", "οδοσ"):
        assert every(searches, PromptQuery(q=word)) == [second]


def test_gold_decides_and_its_parts_are_constraints(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "p": 0.9, "before": {"form": 0.5}, "after": {"form": 1.0}},
        {"id": "b", "p": 0.9, "before": {"form": 1.0}, "after": {"form": 0.5}},
        {"id": "c", "p": 0.5, "before": {"tone": 0.3}, "after": {"tone": 0.3}},
        {"id": "d", "p": 0.4, "before": None, "after": None},
    ]
    lines = [
        {
            "prompt": f"question {row['id']}",
            "prompt_id": row["id"],
            "before": "be",
            "after": "after",
            "p_after": row["p"],
            "gold_before": row["before"],
            "gold_after": row["after"],
        }
        for row in rows
    ]
    write_outcomes(tmp_path, lines)
    searches = read(tmp_path)

    def found(**given: Any) -> list[str]:
        return every(searches, PromptQuery(**given))

    assert (found(outcome="won"), found(outcome="lost")) == (["a"], ["b", "d"])
    assert found(outcome="tied") == ["c"]
    # The judge prefers what gold does not.
    assert found(disagree="judges") == ["b"]
    assert (found(constraint="form"), found(constraint="tone")) == (["a", "b"], ["c"])
    assert found(sort="gain") == ["a", "c", "d", "b"]
    assert found(shortest=2.5) == ["a", "b", "c", "d"]
    assert found(shortest=2.6) == []


def write_outcomes(folder: Path, lines: list[dict[str, Any]]) -> None:
    (folder / "evaluation").mkdir(parents=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "evaluation" / "outcomes.jsonl").write_text(text + '{"half a line')


def again(searches: Searches) -> Searches:
    """Look at the files at once, and wait until they are read."""
    searches.index._looked = 0.0
    while not searches.index.look().whole:
        pass
    return searches


def test_runs_are_found_below_a_folder_and_links_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b/c", "walk/round-01", "walk/round-02", "sweep/trial-x", "a/model/inner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("walk", ".hidden"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
    # Runs may have the names of folders of a run; a model beside them is none, nor is there any
    # in what was a run.
    for name in ("evaluation/journal", "z/model", "model", "lost/model", "lost/checkpoints/1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("z/model", "lost"):
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "b" / "circle").symlink_to(tmp_path)
    found = find_places([tmp_path, tmp_path / "a"])
    assert [(one.name, one.kind, [part.name for part in one.parts]) for one in found] == [
        ("a", "run", []),
        ("b/c", "run", []),
        ("evaluation/journal", "run", []),
        ("sweep", "sweep", ["sweep/trial-x"]),
        ("walk", "rounds", ["walk/round-01", "walk/round-02"]),
        ("z/model", "run", []),
    ]
    assert [folder[0] for folder in found[-2].folders] == [1, 2]
    monkeypatch.setattr(places, "_MOST_FOLDERS", 3)
    with pytest.raises(ConfigError, match="more than 3 folders here"):
        find_places([tmp_path])


def test_a_link_to_a_prompt_waits_until_its_run_has_been_read(tmp_path: Path) -> None:
    small_run(tmp_path / "runs" / "one")
    one = Asked(tmp_path / "runs")
    found = one.viewer.runs()
    page = one.get(f"/run/{one.key()}/prompts").text
    first = page.split("/prompt/0/")[1][:16]
    again = Asked(tmp_path / "runs")
    open_run = again.viewer.open(found.places[0], found)
    assert not open_run.index.look(wait_s=0).whole, "it is being read"
    assert open_run.look_for(0, first)[1]
    state, known = open_run.look_for(0, "0" * 16)
    assert (state.whole, known) == (True, False)
