"""Malformed rows of real users: what is wrong, and the exit code and message, or the repair.

Every row of the table goes through the real command. What cannot be read is refused with place,
field, value and remedy (code 3); what can be read and is worthless is set aside and counted (code
0), and refused under `--strict`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import prefine
from malformed import check_import
from prefine.data import entries
from prefine.data.layouts.protocol import SourceRow
from prefine.data.layouts.table import LAYOUTS
from prefine.data.sources import shaped
from prefine.errors import ConfigError, DataError
from run_place import BACKEND, CONFIG, DATA, OK, PAIRS, SAMPLED, Place, good_pairs, jsonl

Values = dict[str, Any]


def user(text: Any) -> Values:
    return {"role": "user", "content": text}


def assistant(text: Any) -> Values:
    return {"role": "assistant", "content": text}


HH = "\n\nHuman: {}\n\nAssistant: {}"
GOOD: dict[str, Values] = {
    "trl": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    "implicit": {
        "chosen": [user("q"), assistant("good")],
        "rejected": [user("q"), assistant("bad")],
    },
    "hh": {"chosen": HH.format("q", "good"), "rejected": HH.format("q", "bad")},
    "ultrafeedback": {
        "source": "s",
        "instruction": "q",
        "models": ["m", "n"],
        "completions": [
            {
                "model": "m",
                "response": "good",
                "overall_score": 8.0,
                "annotations": {},
                "principle": "p",
            },
            {
                "model": "n",
                "response": "bad",
                "overall_score": 3.0,
                "annotations": {},
                "principle": "p",
            },
        ],
    },
    "binarized": {
        "prompt": "q",
        "prompt_id": "i",
        "chosen": [user("q"), assistant("good")],
        "rejected": [user("q"), assistant("bad")],
        "messages": [user("q"), assistant("good")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    },
    "helpsteer": {
        "prompt": "q",
        "response": "good",
        "helpfulness": 4,
        "correctness": 4,
        "coherence": 4,
        "complexity": 2,
        "verbosity": 1,
    },
    "helpsteer2": {
        "prompt": "q",
        "response_1": "bad",
        "response_2": "good",
        "preference_strength": 2,
    },
    "helpsteer3": {
        "context": [user("q")],
        "response1": "good",
        "response2": "bad",
        "overall_preference": -1,
    },
    "alpaca_eval": {"instruction": "q", "output": "good", "generator": "m", "dataset": "d"},
    "arena": {"uid": "1", "model": "m", "messages": [user("q"), assistant({"answer": "good"})]},
    "arena_old": {
        "question_id": "1",
        "model_id": "m",
        "choices": [{"index": 0, "turns": [{"content": "good"}]}],
    },
    "completions": {"prompt": "q", "completions": ["good", "bad"]},
    "samples": {"prompt": "q", "response": "good"},
}
ENTRY = {
    **dict.fromkeys(("trl", "implicit", "hh", "binarized", "helpsteer2", "helpsteer3"), "pairs"),
    **dict.fromkeys(
        (
            "ultrafeedback",
            "helpsteer",
            "alpaca_eval",
            "arena",
            "arena_old",
            "completions",
            "samples",
        ),
        "completions",
    ),
}


@dataclass(frozen=True)
class Case:
    """A good row of a layout, then one that is changed; `...` takes a column away."""

    name: str
    layout: str
    changes: Values
    says: tuple[str, ...]
    code: int = DATA
    options: tuple[str, ...] = ()
    alone: bool = False


def refused(name: str, layout: str, changes: Values, *says: str, **more: Any) -> Case:
    return Case(name, layout, changes, ("line 1" if more.get("alone") else "line 2", *says), **more)


def aside(name: str, layout: str, changes: Values, reason: str) -> Case:
    return Case(name, layout, changes, ("line 2", f"1 × {reason}"), code=OK)


SPLIT = "cannot be split at one answer"
TOOL_TURN = [assistant("let me look"), {"role": "tool", "content": "4"}, assistant("four")]
CASES = [
    # --- explicit prompts
    refused(
        "no rejected", "trl", {"rejected": ...}, "no column 'rejected'", "chosen, prompt", "columns"
    ),
    refused("no chosen", "trl", {"chosen": ...}, "no column 'chosen'"),
    refused(
        "no prompt in a later row",
        "trl",
        {"prompt": ...},
        "no column 'prompt'",
        "columns: {prompt:",
    ),
    aside("rejected None", "trl", {"rejected": None}, "empty answer"),
    refused("prompt None", "trl", {"prompt": None}, "prompt", "None"),
    refused("prompt a number", "trl", {"prompt": 7}, "prompt", "got 7"),
    refused("chosen a number", "trl", {"chosen": 7}, "chosen", "got 7"),
    refused(
        "user turn inside chosen",
        "trl",
        {"chosen": [user("more"), assistant("good")]},
        "one assistant turn",
    ),
    refused(
        "tool turn at the end of chosen",
        "trl",
        {"chosen": TOOL_TURN[:2]},
        "one assistant turn",
        "'tool'",
        "prompt",
    ),
    refused(
        "chosen by the user", "trl", {"chosen": [user("good")]}, "one assistant turn", "'user'"
    ),
    refused(
        "unknown role", "trl", {"prompt": [{"role": "tutor", "content": "q"}]}, "role", "'tutor'"
    ),
    refused("message without content", "trl", {"prompt": [{"role": "user"}]}, "content"),
    refused(
        "an image in a message",
        "trl",
        {"prompt": [user([{"type": "image", "image": "i"}])]},
        "parts",
        "'image'",
    ),
    refused(
        "messages in other words",
        "trl",
        {"prompt": [{"speaker": "human", "says": "q"}]},
        "no role",
        "says, speaker",
    ),
    refused("score_gap below 0", "trl", {"score_gap": -0.5}, "score_gap -0.5", "swap"),
    refused(
        "template arguments of ours",
        "trl",
        {"chat_template_kwargs": {"tokenize": False}},
        "has tokenize",
    ),
    refused("message is a text", "trl", {"prompt": ["q"]}, "list of messages"),
    refused(
        "prompt ends with an answer",
        "trl",
        {"prompt": [user("q"), assistant("a")]},
        "end the prompt",
    ),
    refused("weight below 0", "trl", {"weight": -1}, "weight", "-1"),
    refused("p_chosen says otherwise", "trl", {"p_chosen": 0.3}, "p_chosen", "0.3"),
    refused("tools no JSON", "trl", {"tools": "hammer"}, "tools", "'hammer'"),
    refused("template arguments a list", "trl", {"chat_template_kwargs": [1]}, "dictionary"),
    aside("identical", "trl", {"rejected": "good"}, "identical answers"),
    aside("chosen empty", "trl", {"chosen": ""}, "empty answer"),
    aside("rejected blank", "trl", {"rejected": " \n"}, "empty answer"),
    aside("prompt empty", "trl", {"prompt": ""}, "empty prompt"),
    aside("the same pair again", "trl", {}, "duplicate pair"),
    aside("no preference", "trl", {"score_gap": 0.0, "prompt": "p"}, "tie"),
    aside("as likely as not", "trl", {"p_chosen": 0.5}, "tie"),
    aside("equal ratings", "trl", {"chosen-rating": 4, "rejected-rating": "4.0"}, "tie"),
    aside(
        "ratings the wrong way round",
        "trl",
        {"rating_chosen": 1, "rating_rejected": 4},
        "scores say the opposite",
    ),
    aside(
        "the opposite of the other",
        "trl",
        {"chosen": "bad", "rejected": "good"},
        "contradictory pair",
    ),
    aside(
        "a field of no message",
        "trl",
        {"prompt": [user("p") | {"id": 7}]},
        "without the message field 'id'",
    ),
    # --- implicit prompts
    refused(
        "texts that share a last character",
        "implicit",
        {"chosen": "abcd", "rejected": "abce"},
        "chosen is a text without turns",
        "'abcd'",
        "cannot be split safely",
        alone=True,
    ),
    refused(
        "texts with a trailing space",
        "implicit",
        {"chosen": "abc ", "rejected": "abc  "},
        "cannot be split safely",
        "prompt, chosen and rejected, or messages",
        alone=True,
    ),
    refused(
        "the prompt in a column of another name",
        "implicit",
        {"chosen": "good", "rejected": "bad", "question": "q"},
        "there is question",
        "columns: {prompt: YOUR_COLUMN}",
        alone=True,
    ),
    refused("one side a text", "implicit", {"rejected": "bad"}, "text without turns", "'bad'"),
    refused(
        "one side None", "implicit", {"rejected": None}, "rejected", "list of messages", "None"
    ),
    aside("no common message", "implicit", {"chosen": [user("p"), assistant("good")]}, SPLIT),
    aside("tool turns end chosen", "implicit", {"chosen": [user("q"), *TOOL_TURN[:2]]}, SPLIT),
    aside(
        "one side ends with a question",
        "implicit",
        {"chosen": [user("q"), assistant("good"), user("more")]},
        SPLIT,
    ),
    aside(
        "one side ends where the other begins to differ",
        "implicit",
        {"rejected": [user("q")]},
        SPLIT,
    ),
    refused("another prompt as well", "implicit", {"prompt": "p"}, "'p'", "not a user turn"),
    aside(
        "equal scores of conversations",
        "implicit",
        {"score_chosen": 3.0, "score_rejected": 3.0},
        "tie",
    ),
    aside(
        "both conversations the same",
        "implicit",
        {"rejected": [user("q"), assistant("good")]},
        "identical answers",
    ),
    # --- Anthropic HH
    refused(
        "no marks in a later row", "hh", {"chosen": "good"}, "line 2, chosen", "Human:", "'good'"
    ),
    refused(
        "text before the first mark",
        "hh",
        {"chosen": "Hi " + HH.format("q", "good")},
        "must begin with",
    ),
    aside(
        "the last turn is the human's",
        "hh",
        {"chosen": HH.format("q", "good\n\nHuman: thanks")},
        SPLIT,
    ),
    aside("other questions", "hh", {"chosen": HH.format("another", "good")}, SPLIT),
    refused("a number for a text", "hh", {"rejected": 3}, "rejected", "got 3"),
    aside("empty last turn", "hh", {"chosen": "\n\nHuman: q\n\nAssistant:"}, "empty answer"),
    # --- UltraFeedback
    refused(
        "no instruction",
        "ultrafeedback",
        {"instruction": ...},
        "no column 'instruction'",
        "ultrafeedback",
    ),
    refused("completions None", "ultrafeedback", {"completions": None}, "must be a list", "None"),
    aside("no completions", "ultrafeedback", {"completions": []}, "no answer left"),
    refused(
        "completion without response",
        "ultrafeedback",
        {"completions": [{"model": "m", "text": "good"}]},
        "line 2, completion 0",
        "response",
    ),
    refused(
        "score a word",
        "ultrafeedback",
        {"completions": [{"model": "m", "response": "a", "overall_score": "high"}]},
        "overall_score",
        "'high'",
    ),
    aside(
        "one response empty",
        "ultrafeedback",
        {"instruction": "p", "completions": [{"response": ""}, {"response": "a"}]},
        "empty answer",
    ),
    aside(
        "one response None", "ultrafeedback", {"completions": [{"response": None}]}, "empty answer"
    ),
    refused("the prompt is another", "binarized", {"prompt": "p"}, "'p'", "not a user turn"),
    aside(
        "scores the wrong way round", "binarized", {"score_chosen": 1.0}, "scores say the opposite"
    ),
    refused("no score", "binarized", {"score_chosen": ...}, "no column 'score_chosen'"),
    aside(
        "score missing",
        "binarized",
        {"score_chosen": None, "rejected": [user("q"), assistant("worse")]},
        "without a score_gap: one of two scores is missing",
    ),
    aside("equal scores", "binarized", {"score_chosen": 3.0}, "tie"),
    # --- HelpSteer
    refused("no response", "helpsteer", {"response": ...}, "no column 'response'", "helpsteer"),
    refused("grade true", "helpsteer", {"helpfulness": True}, "helpfulness", "True"),
    aside("response None", "helpsteer", {"response": None}, "empty answer"),
    aside("response empty", "helpsteer", {"response": ""}, "empty answer"),
    refused(
        "strength out of range",
        "helpsteer2",
        {"preference_strength": -100},
        "between -3 and 3",
        "-100",
    ),
    aside("strength None", "helpsteer2", {"preference_strength": None}, "no preference given"),
    aside("no preference at all", "helpsteer2", {"preference_strength": 0}, "tie"),
    refused("context a number", "helpsteer3", {"context": 1}, "got 1"),
    refused(
        "context ends with an answer",
        "helpsteer3",
        {"context": [user("q"), assistant("a")]},
        "end the prompt",
    ),
    aside("context of nothing", "helpsteer3", {"context": [user("")]}, "empty prompt"),
    # --- AlpacaEval, Arena-Hard
    refused(
        "no generator", "alpaca_eval", {"generator": ...}, "no column 'generator'", "alpaca_eval"
    ),
    aside("output None", "alpaca_eval", {"output": None}, "empty answer"),
    aside("output empty", "alpaca_eval", {"output": ""}, "empty answer"),
    refused(
        "no answer in the messages",
        "arena",
        {"messages": [user("q")]},
        "messages",
        "assistant's answer",
    ),
    refused(
        "an answer without text",
        "arena",
        {"messages": [user("q"), assistant({"text": "a"})]},
        "expected a text",
    ),
    refused(
        "unknown question", "arena_old", {"question_id": "9"}, "'9'", "not among the 1 questions"
    ),
    refused("no choices", "arena_old", {"choices": []}, "choices", "at least one"),
    refused(
        "two turns",
        "arena_old",
        {"choices": [{"turns": [{"content": "a"}] * 2}]},
        "exactly one turn",
    ),
    Case(
        "no questions",
        "arena_old",
        {},
        ("arena_hard_answers", "questions:"),
        code=CONFIG,
        options=("--limit", "1"),
    ),
    # --- what fits two layouts, and what was named wrongly
    refused(
        "two layouts",
        "helpsteer",
        {"chosen": "good", "rejected": "bad"},
        "fit prefine and helpsteer",
        "layout: helpsteer",
        alone=True,
    ),
    refused(
        "named wrongly",
        "trl",
        {},
        "'helpfulness' and 'response'",
        "helpsteer",
        alone=True,
        options=("--layout", "helpsteer"),
    ),
    Case(
        "no such layout",
        "trl",
        {},
        ("layout", "'helpster'"),
        code=CONFIG,
        options=("--layout", "helpster"),
    ),
    Case(
        "columns without =",
        "trl",
        {},
        ("--columns 'prompt'", "ours=theirs"),
        CONFIG,
        options=("--columns", "prompt"),
    ),
    refused(
        "column not there",
        "trl",
        {},
        "no column 'question'",
        alone=True,
        options=("--columns", "prompt=question"),
    ),
    # --- completions of our own
    refused("completions a text", "completions", {"completions": "good"}, "list", "'good'"),
    aside("completion None", "completions", {"completions": [None]}, "empty answer"),
    aside(
        "text None",
        "completions",
        {"completions": ["a", {"text": None, "model": "m"}]},
        "empty answer",
    ),
    refused(
        "completion a number", "completions", {"completions": [7]}, "line 2, completion 0", "got 7"
    ),
    refused(
        "not completions at all", "completions", {"completions": ...}, "no column 'completions'"
    ),
    aside(
        "all completions empty",
        "completions",
        {"prompt": "p", "completions": ["", " "]},
        "no answer left",
    ),
    refused("answer a number", "samples", {"response": 7}, "expected a text", "7"),
    refused(
        "no response",
        "samples",
        {"response": ...},
        "no column 'completion', which the layout samples needs",
    ),
    aside("answer empty", "samples", {"response": ""}, "empty answer"),
]


def changed(values: Values, changes: Values) -> Values:
    return {name: value for name, value in (values | changes).items() if value is not ...}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "question.jsonl").write_text('{"question_id": "1", "turns": [{"content": "q"}]}\n')
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.layout}: {case.name}")
def test_malformed_rows(case: Case, here: Path) -> None:
    good = GOOD[case.layout]
    rows = [changed(good, case.changes)] if case.alone else [good, changed(good, case.changes)]
    (here / "rows.jsonl").write_bytes(jsonl(rows))
    questions = (
        ("--questions", "question.jsonl")
        if case.layout == "arena_old" and case.code != CONFIG
        else ()
    )
    arguments = ("rows.jsonl", "--as", ENTRY[case.layout], *questions, *case.options)
    check_import(arguments, case.says, case.code, line=1 if case.alone else 2)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert {case.layout for case in CASES} == set(GOOD)
    repaired = sum(case.code == OK for case in CASES)
    print(
        f"\n{len(CASES)} malformed rows: {len(CASES) - repaired} refused, {repaired} repaired and "
        "counted"
    )


@pytest.mark.parametrize("name", GOOD)
def test_a_good_row_of_every_layout(name: str, here: Path) -> None:
    (here / "rows.jsonl").write_bytes(jsonl([GOOD[name]]))
    questions = ("--questions", "question.jsonl") if name == "arena_old" else ()
    result = prefine("import", "rows.jsonl", "--as", ENTRY[name], "--out", "out.jsonl", *questions)
    assert result.code == OK, result.err
    (row,) = map(json.loads, (here / "out.jsonl").read_text().splitlines())
    prompt, answers = (
        row["prompt"],
        row.get("completions", [row.get("chosen"), row.get("rejected")]),
    )
    assert prompt == "q"
    assert "user" not in str(answers), "the prompt is in an answer"
    assert "good" in str(answers[0])


def test_import_of_several_files_of_several_models(here: Path) -> None:
    for model in ("m", "n"):
        rows = [
            {"instruction": q, "output": f"{model} {q}", "generator": model} for q in ("q", "p")
        ]
        (here / f"{model}.json").write_text(json.dumps(rows))
    result = prefine("import", "m.json", "n.json", "--as", "completions", "--out", "out.jsonl")
    assert result.code == OK, result.err
    assert result.out.split()[:5] == ["layout", "alpaca_eval", "read", "2", "prompts"]
    written = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    assert [[answer["model"] for answer in row["completions"]] for row in written] == [
        ["m", "n"],
        ["m", "n"],
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("rows.jsonl", "--as", "answers", "--out", "o.jsonl"),
            "--as answers: unknown; choose one of prompts",
        ),
        (("rows.jsonl", "--as", "pairs", "--out", "o.csv"), "--out o.csv"),
        (
            ("rows.jsonl", "--as", "pairs", "--out", "rows.jsonl"),
            "--out rows.jsonl: this is an input",
        ),
        (("rows.jsonl", "--as", "pairs", "--out", "o.jsonl", "--split", "train"), "--split is for"),
        (
            ("rows.jsonl", "--as", "pairs", "--out", "o.jsonl", "--data-dir", "d"),
            "--data-dir is for hub:",
        ),
        (
            ("hub:a/b", "--as", "pairs", "--out", "o.jsonl", "--format", "json"),
            "--format is for files",
        ),
        (
            ("rows.jsonl", "--as", "pairs", "--out", "o.jsonl", "--format", "xml"),
            "--format xml: unknown",
        ),
        (("rows.jsonl", "hub:a/b", "--as", "pairs", "--out", "o.jsonl"), "only one hub:"),
        (("rows.jsonl", "--as", "pairs", "--out", "o.jsonl", "--limit", "0"), "import.limit"),
        (("nowhere.jsonl", "--as", "pairs", "--out", "o.jsonl"), "nowhere.jsonl: no such file"),
    ],
)
def test_import_options_that_cannot_be(here: Path, options: tuple[str, ...], says: str) -> None:
    (here / "rows.jsonl").write_bytes(jsonl([GOOD["trl"]]))
    result = prefine("import", *options)
    assert result.code == CONFIG
    assert says in result.err
    assert sorted(path.name for path in here.iterdir()) == ["question.jsonl", "rows.jsonl"]


def test_import_from_the_hub_names_what_is_missing(here: Path) -> None:
    result = prefine("import", "hub:no/such-data", "--as", "prompts", "--out", "o.jsonl")
    assert (result.code, result.out) == (BACKEND, "")
    assert "hub:no/such-data: cannot be loaded" in result.err


def test_import_does_not_read_what_it_wrote(here: Path) -> None:
    (here / "parts").mkdir()
    (here / "parts" / "a.jsonl").write_bytes(jsonl([GOOD["trl"]]))
    command = ("import", "parts", "--as", "pairs", "--out", "parts/all.jsonl")
    assert prefine(*command).code == OK
    again = prefine(*command)
    assert (again.code, "all.jsonl: this is an input" in again.err) == (CONFIG, True)
    (here / "rows.json").write_bytes(jsonl([GOOD["trl"]] * 2))
    hinted = prefine("import", "rows.json", "--as", "pairs", "--out", "o.jsonl")
    assert (hinted.code, "--format jsonl" in hinted.err) == (DATA, True)
    assert (
        prefine(
            "import", "rows.json", "--as", "pairs", "--out", "o.jsonl", "--format", "jsonl"
        ).code
        == OK
    )


# --- a run counts what it sets aside, and says so


def test_a_run_counts_and_names_what_it_sets_aside(place: Place) -> None:
    place.change(PAIRS)
    rows = good_pairs()
    place.put("pairs.jsonl", jsonl([*rows, rows[0], rows[1] | {"chosen": ""}]))
    checked = prefine("config", "check", "run.yaml")
    planned = prefine("run", "run.yaml", "--dry-run")
    for result in (checked, planned):
        assert result.code == OK, result.err
        assert "pairs: set aside: 1 × duplicate pair (pairs.jsonl, line 5)" in result.out
        assert "pairs: set aside: 1 × empty answer (pairs.jsonl, line 6)" in result.out
    for command in (("run",), ("pair",), ("config", "check")):
        strict = prefine(*command, "run.yaml", "--strict")
        assert strict.code == DATA
        assert "pairs.jsonl, line 5: the same pair as in pairs.jsonl, line 1" in strict.err
    assert not (place.root / "run" / "manifest.json").exists()
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    assert "set aside: 1 × duplicate pair" in result.err
    manifest = json.loads((place.root / "run/manifest.json").read_text())["stages"]["pair"]
    assert manifest["counts"]["dropped"] == {"duplicate pair": 1, "empty answer": 1}
    assert (manifest["counts"]["taken"], manifest["counts"]["produced"]) == (6, 4)
    assert "set aside: 1 × empty answer (pairs.jsonl, line 6)" in manifest["notes"]


def test_prompts_that_are_too_long_are_counted(place: Place) -> None:
    changes = {"policy": {"name": "hf", "path": "model"}, "sample.max_new_tokens": 20}
    place.change(SAMPLED | changes)
    place.put(
        "prompts.jsonl", jsonl([{"prompt": "tea"}, {"prompt": "tea " * 400}, {"prompt": "cup"}])
    )
    place.change({"rank.judge": {"name": "recorded", "field": "grade"}})
    result = prefine("sample", "run.yaml")
    assert result.code == OK, result.err
    manifest = json.loads((place.root / "run/manifest.json").read_text())["stages"]["sample"]
    assert manifest["counts"] == {
        "taken": 3,
        "produced": 6,
        "failed": {},
        "dropped": {"over-long prompt": 1},
    }
    again = prefine("sample", "run.yaml")
    assert (
        json.loads((place.root / "run/manifest.json").read_text())["stages"]["sample"] == manifest
    ), again.err


def test_strict_refuses_pairs_that_training_would_not_read_whole(place: Place) -> None:
    place.change(PAIRS | {"train.max_completion_tokens": 12})
    for changes, says in (
        ({"chosen": "tea " * 40}, "shorten it to the token limit"),
        (
            {
                "chosen": "the same beginning of both " * 9,
                "rejected": "the same beginning of both " * 8,
            },
            "sides_coincide",
        ),
    ):
        place.put("pairs.jsonl", jsonl([*good_pairs(), good_pairs()[0] | changes]))
        assert prefine("config", "check", "run.yaml").code == OK
        strict = prefine("run", "run.yaml", "--strict")
        assert strict.code == DATA
        assert (
            "pairs.jsonl, line 5" in strict.err and says in strict.err and "--strict" in strict.err
        )
    place.put("pairs.jsonl", jsonl(good_pairs()))
    assert prefine("config", "check", "run.yaml", "--strict").code == OK


@pytest.mark.parametrize("stage", ["sample", "rank"])
def test_a_stage_before_the_pairs_says_where_the_run_begins(place: Place, stage: str) -> None:
    place.change(PAIRS)
    result = prefine(stage, "run.yaml")
    assert (result.code, "starts with pairs" in result.err) == (CONFIG, True)


def test_evaluation_prompts_that_were_trained_on_are_set_aside(place: Place) -> None:
    place.put("test.jsonl", jsonl([{"prompt": "question 1"}, {"prompt": "question 9"}]))
    place.change(
        PAIRS
        | {"evaluate": {"prompts": {"name": "file", "path": "test.jsonl"}, "bootstrap_samples": 10}}
    )
    place.change(
        {
            "evaluate.decoding": {"max_new_tokens": 2},
            "evaluate.gold": {"name": "test_malformed_rows:length"},
        }
    )
    strict = prefine("run", "run.yaml", "--strict")
    assert strict.code == DATA
    assert "test.jsonl, line 1: this evaluation prompt is also trained on" in strict.err
    result = prefine("run", "run.yaml")
    assert result.code == OK, result.err
    manifest = json.loads((place.root / "run/manifest.json").read_text())["stages"]["evaluate"]
    assert manifest["counts"]["dropped"] == {"leaked evaluation prompt": 1}
    assert (manifest["counts"]["taken"], manifest["counts"]["produced"]) == (2, 1)
    place.put("test.jsonl", jsonl([{"prompt": "question 1"}]))
    result = prefine("evaluate", "run.yaml")
    assert result.code == DATA
    assert "nothing is left of 1 rows" in result.err


def length(prompt: str, text: str) -> dict[str, float]:
    """A gold score."""
    return {"length": min(1.0, len(text) / 10)}


# --- anything at all

NAMES = sorted(
    {name for layout in LAYOUTS for columns in layout.columns for name in columns}
    | {"tools", "weight"}
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(["", "q", HH.format("q", "a")])
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "x"]), "content": LEAVES}
)
JUNK = st.recursive(
    LEAVES | MESSAGE,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=7), min_size=1, max_size=3)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(ROWS, st.sampled_from(["auto", *(layout.name for layout in LAYOUTS)]))
def test_junk_is_refused_and_never_a_crash(values: list[Values], layout: Any) -> None:
    for entry in (entries.prompts, entries.completions, entries.pairs):
        try:
            rows = [SourceRow(f"junk, row {number}", row) for number, row in enumerate(values)]
            list(entry(shaped(rows, layout=layout)))
        except (DataError, ConfigError) as error:
            assert "junk" in str(error)


# --- real data


def test_real_pools_are_read(real_data: Path) -> None:
    for name, grade in (("alpaca_eval_pool", "preference"), ("arena_bench_pool", "score")):
        lines = (real_data / name / "pool.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [
            SourceRow(f"{name}, line {number}", json.loads(line))
            for number, line in enumerate(lines, 1)
            if line
        ]
        groups = list(entries.completions(shaped(rows)))
        assert (len(groups), {len(found) for _, found in groups}) == (60, {12})
        assert all(
            grade in answer.metadata and answer.model for _, found in groups for answer in found
        )


def test_real_arena_hard_answers_find_their_questions(real_data: Path, here: Path) -> None:
    folder = real_data / "arena_hard"
    questions = ("--questions", str(folder / "question_v2.0.jsonl"))
    command = (
        "import",
        str(folder / "answers_sample.jsonl"),
        "--as",
        "completions",
        "--out",
        "out.jsonl",
        *questions,
    )
    result = prefine(*command)
    assert result.code == OK, result.err
    assert "layout   arena_hard_answers" in result.out
    written = [json.loads(line) for line in (here / "out.jsonl").read_text().split("\n") if line]
    assert sum(len(row["completions"]) for row in written) == 80
    for name, count in (("question_v0.1.jsonl", 500), ("question_v2.0.jsonl", 750)):
        result = prefine(
            "import", str(folder / name), "--as", "prompts", "--out", "questions.jsonl"
        )
        assert result.code == OK, result.err
        assert f"written  {count:>9,} prompts" in result.out
