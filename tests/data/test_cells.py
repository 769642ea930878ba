"""The same messages in the words and forms of other tools, in every format; and lost context."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefine.data import entries
from prefine.data.convert import write_entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import file, shaped
from prefine.errors import ConfigError, DataError
from prefine.records import Prompt


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def pairs(*rows: dict[str, Any], report: ImportReport | None = None) -> list[Any]:
    given = (SourceRow(f"f, line {n}", row) for n, row in enumerate(rows, 1))
    return list(entries.pairs(shaped(given), report or ImportReport()))


def written(place: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = place / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue())
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


EXPLICIT = {
    "prompt": json.dumps([{"role": "system", "content": "s"}, user("q")]),
    "chosen": json.dumps([assistant("a")]),
    "rejected": json.dumps(assistant("b")),
}
IMPLICIT = {
    "chosen": json.dumps([user("q"), assistant("a")]),
    "rejected": json.dumps([user("q"), assistant("b")]),
}
SHAREGPT = {
    "conversations": json.dumps([{"from": "human", "value": "q"}]),
    "chosen": json.dumps({"from": "gpt", "value": "a"}),
    "rejected": json.dumps({"from": "gpt", "value": "b"}),
}


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet", "r.csv"])
@pytest.mark.parametrize("row", [EXPLICIT, IMPLICIT, SHAREGPT])
def test_messages_as_json_text_are_messages(row: dict[str, str], name: str, tmp_path: Path) -> None:
    (pair,) = entries.pairs(file(path=written(tmp_path, name, [row])))
    assert [m.content for m in pair.prompt.messages] == (["s", "q"] if row is EXPLICIT else ["q"])
    assert (pair.chosen.text, pair.rejected.text) == ("a", "b")


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet", "r.csv"])
def test_completions_history_and_prompts_as_json_text(name: str, tmp_path: Path) -> None:
    row = {
        "prompt": json.dumps([user("q")]),
        "history": json.dumps([["p", "o"]]),
        "completions": json.dumps(["a", None, {"text": "b", "grade": 3}]),
    }
    ((prompt, found),) = entries.completions(file(path=written(tmp_path, name, [row])))
    assert [m.content for m in prompt.messages] == ["p", "o", "q"]
    assert [(one.text, one.metadata) for one in found] == [("a", {}), ("b", {"grade": 3})]


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet", "r.csv"])
def test_messages_that_python_printed_are_refused(name: str, tmp_path: Path) -> None:
    for cell in ("[{'role': 'user', 'content': 'q'}]", "[{'from': 'human', 'value': 'q'}]"):
        row = {"prompt": cell, "chosen": "a", "rejected": "b"}
        with pytest.raises(DataError, match=r"the cell prompt holds messages as Python prints"):
            list(entries.pairs(file(path=written(tmp_path, name, [row]))))


@pytest.mark.parametrize(
    "text",
    ['["a", "b"]', "[1, 2]", '{"a": 1}', "[not json", '[{"name": "x"}]', "[]", '{"role": 1}'],
)
def test_json_text_that_is_no_message_stays_a_text(text: str) -> None:
    (pair,) = pairs({"prompt": "q", "chosen": text, "rejected": "b", "note": text})
    assert (pair.chosen.text, pair.prompt.metadata) == (text, {"note": text})


def test_a_text_that_looks_like_messages_is_written_so_that_it_comes_back(tmp_path: Path) -> None:
    text = json.dumps([user("q")])
    rows = [SourceRow("r", {"prompt": "q", "chosen": text, "rejected": "b"})]
    write_entries(iter(rows), "pairs", tmp_path / "out.jsonl", ImportReport())
    (pair,) = entries.pairs(file(path=tmp_path / "out.jsonl"))
    assert pair.chosen.text == text


def test_structs_of_lists_are_lists_of_objects(tmp_path: Path) -> None:
    turns = {"role": ["user", "assistant"], "content": ["q", "a"]}
    row = {"chosen": turns, "rejected": turns | {"content": ["q", "b"]}}
    (pair,) = entries.pairs(file(path=written(tmp_path, "r.parquet", [row])))
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text) == ("q", "a", "b")
    answers = {"prompt": "q", "completions": {"text": ["a", "b"], "grade": [1, 2]}}
    ((_, found),) = entries.completions(file(path=written(tmp_path, "s.parquet", [answers])))
    assert [(one.text, one.metadata["grade"]) for one in found] == [("a", 1), ("b", 2)]
    uneven = {"prompt": {"role": ["user"], "content": ["q", "p"]}, "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match="line 1"):
        pairs(uneven)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("human", "user"),
        ("Human", "user"),
        ("prompter", "user"),
        ("USER", "user"),
        ("gpt", "assistant"),
        ("Assistant", "assistant"),
        ("model", "assistant"),
        ("developer", "system"),
        ("observation", "tool"),
        ("function", "tool"),
    ],
)
@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
def test_roles_of_other_tools(theirs: str, ours: str, role: str, content: str) -> None:
    turns = [{role: theirs, content: "t"}, {role: "user", content: "q"}]
    (prompt,) = entries.prompts(shaped([SourceRow("f", {"prompt": turns})]))
    assert [(m.role, m.content) for m in prompt.messages] == [(ours, "t"), ("user", "q")]


def test_calls_in_sharegpt_are_calls() -> None:
    call = {"name": "clock", "arguments": {"zone": "UTC"}}
    turns = [
        {"from": "human", "value": "Time?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "12:00"},
        {"from": "gpt", "value": "Noon."},
    ]
    ((prompt, (answer,)),) = entries.completions(shaped([SourceRow("f", {"conversations": turns})]))
    assert [m.role for m in prompt.messages] == ["user", "assistant", "tool"]
    assert prompt.messages[1].tool_calls == ({"type": "function", "function": call},)
    assert answer.text == "Noon."


HISTORIES = [
    [["p", "o"]],
    [user("p"), assistant("o")],
    [{"from": "human", "value": "p"}, {"from": "gpt", "value": "o"}],
]


@pytest.mark.parametrize("column", ["history", "chat_history", "conversation_history", "context"])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("prompt", ["q", [{"role": "system", "content": "s"}, user("q")]])
def test_earlier_turns_are_part_of_the_prompt(column: str, history: Any, prompt: Any) -> None:
    row = {"prompt": prompt, column: history, "chosen": "a", "rejected": "b"}
    (pair,) = pairs(row | ({"system": "s"} if prompt == "q" else {}))
    assert [m.content for m in pair.prompt.messages] == ["s", "p", "o", "q"]
    assert [m.role for m in pair.prompt.messages] == ["system", "user", "assistant", "user"]
    assert pair.prompt.metadata == {}


def test_a_prompt_that_has_its_history_does_not_get_it_twice() -> None:
    turns = [user("p"), assistant("o"), user("q")]
    (pair,) = pairs({"prompt": turns, "history": [["p", "o"]], "chosen": "a", "rejected": "b"})
    assert [m.content for m in pair.prompt.messages] == ["p", "o", "q"]


@pytest.mark.parametrize("empty", [None, [], ""])
def test_no_history_is_no_turn(empty: Any) -> None:
    (pair,) = pairs({"prompt": "q", "history": empty, "chosen": "a", "rejected": "b"})
    assert pair.prompt.id == Prompt.from_text("q").id


@pytest.mark.parametrize("history", ["we spoke of tea", ["p", "o"], [["p"]], [[1, 2]], {"a": 1}, 3])
def test_earlier_turns_that_cannot_be_read_are_refused(history: Any) -> None:
    row = {"prompt": "q", "history": history, "chosen": "a", "rejected": "b"}
    with pytest.raises(DataError, match=r"line 1: history must be earlier turns.*unused_history"):
        pairs(row)
    kept = shaped([SourceRow("f", row)], columns={"unused_history": "history"})
    (pair,) = entries.pairs(kept)
    assert pair.prompt.text == "q"


def test_a_context_that_is_no_conversation_is_metadata() -> None:
    (pair,) = pairs({"prompt": "q", "context": "a passage", "chosen": "a", "rejected": "b"})
    assert pair.prompt.metadata == {"context": "a passage"}


@pytest.mark.parametrize("column", ["image", "images", "video", "videos", "audio", "audios"])
@pytest.mark.parametrize("value", ["a.png", ["a.png"], [{"bytes": None, "path": "a.png"}]])
def test_pictures_and_sounds_are_refused(column: str, value: Any) -> None:
    row = {"prompt": "What is it?", "chosen": "a cat", "rejected": "a dog"}
    with pytest.raises(DataError, match=rf"line 1: {column} holds .*a\.png.*cannot be read"):
        pairs(row | {column: value})
    with pytest.raises(DataError, match="cannot be read"):
        pairs(row | {"prompt": [user("What is it?") | {column: value}]})
    for nothing in (None, [], ""):
        assert len(pairs(row | {column: nothing})) == 1


def test_answers_that_repeat_the_prompt_are_counted() -> None:
    row = {"prompt": "Name a tree:", "chosen": "Name a tree: oak", "rejected": "Name a tree: cow"}
    report = ImportReport()
    (pair,) = pairs(row, report=report)
    assert pair.chosen.text == "Name a tree: oak"
    assert report.notes() == ("kept: 1 × both answers begin with the prompt (f, line 1)",)
    with pytest.raises(DataError, match=r"begin with the prompt's text 'Name a tree:'.*--strict"):
        pairs(row, report=ImportReport(strict=True))
    answers = {"prompt": "Name a tree:", "completions": [f"\nName a tree: {n}" for n in range(3)]}
    report = ImportReport()
    list(entries.completions(shaped([SourceRow("f", answers)]), report))
    assert dict(report.remarked) == {"all answers begin with the prompt": 1}


def test_one_answer_that_quotes_and_answers_with_the_same_word_are_no_repetition() -> None:
    report = ImportReport()
    pairs(
        {"prompt": "Name a tree:", "chosen": "Name a tree: oak", "rejected": "cow"},
        {"prompt": "Hello", "chosen": "Hello there", "rejected": "Hello you"},
        report=report,
    )
    assert report.notes() == ()


@pytest.mark.parametrize("content", ["", None, []])
def test_an_empty_system_turn_is_kept(content: Any) -> None:
    turns = [{"role": "system", "content": content}, user("q")]
    (pair,) = pairs({"chosen": [*turns, assistant("a")], "rejected": [*turns, assistant("b")]})
    assert [(m.role, m.content) for m in pair.prompt.messages] == [("system", ""), ("user", "q")]


def test_a_tool_may_return_nothing() -> None:
    turns = [user("q"), assistant("") | {"tool_calls": [{"name": "f"}]}]
    turns.append({"role": "tool", "content": ""})
    (prompt,) = entries.prompts(shaped([SourceRow("f", {"prompt": turns})]))
    assert [m.role for m in prompt.messages] == ["user", "assistant", "tool"]


CALL = assistant(None) | {"tool_calls": [{"type": "function", "function": {"name": "clock"}}]}
RESULT = {"role": "tool", "name": "clock", "content": "12:00"}


@pytest.mark.parametrize("implicit", [False, True])
def test_answers_of_several_turns(implicit: bool, tmp_path: Path) -> None:
    before = [user("Time?")] if implicit else []
    row = {
        "chosen": [*before, CALL, RESULT, assistant("Noon.")],
        "rejected": [*before, assistant("No idea.")],
    }
    row = row if implicit else row | {"prompt": [user("Time?")]}
    (pair,) = pairs(row)
    assert [m.role for m in pair.chosen.messages] == ["assistant", "tool", "assistant"]
    assert [m.role for m in pair.chosen.earlier_turns] == ["assistant", "tool"]
    assert (pair.chosen.text, pair.rejected.text) == ("Noon.", "No idea.")
    assert pair.rejected.earlier_turns == ()
    write_entries(shaped([SourceRow("f", row)]), "pairs", tmp_path / "out.jsonl", ImportReport())
    (again,) = entries.pairs(file(path=tmp_path / "out.jsonl"))
    assert (again.chosen.messages, again.id) == (pair.chosen.messages, pair.id)


def test_answers_that_differ_in_an_earlier_turn_are_different() -> None:
    def answer(text: str) -> list[dict[str, Any]]:
        return [assistant(text), user("more"), assistant("end")]

    report = ImportReport()
    first, second = pairs(
        {"prompt": "q", "chosen": answer("a"), "rejected": answer("b")},
        {"prompt": "q", "chosen": answer("a"), "rejected": answer("c")},
        {"prompt": "q", "chosen": answer("a"), "rejected": answer("a")},
        report=report,
    )
    assert first.id != second.id
    assert dict(report.dropped) == {"identical answers": 1}


def test_answers_of_several_turns_are_not_judged() -> None:
    report = ImportReport()
    row = {"prompt": "q", "completions": [{"text": [CALL, RESULT, assistant("Noon.")]}, "a", "b"]}
    ((_, found),) = entries.completions(shaped([SourceRow("f", row)]), report)
    assert [one.text for one in found] == ["a", "b"]
    assert dict(report.dropped) == {"answer of several turns": 1}


@pytest.mark.parametrize("missing", [None, ""])
def test_one_missing_score_is_no_gap(missing: Any) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    report = ImportReport()
    for scores in ({"score_chosen": 5, "score_rejected": missing}, {"chosen_rating": missing}):
        (pair,) = pairs(
            row | {"rejected_rating": 3} | scores if len(scores) == 1 else row | scores,
            report=report,
        )
        assert pair.score_gap is None
    assert dict(report.remarked) == {"without a score_gap: one of two scores is missing": 2}


def test_two_answers_with_grades_are_a_pair() -> None:
    row = {
        "prompt": "q",
        "completions": [{"text": "a", "grade": 1}, {"text": "b", "grade": 4, "model": "m"}],
    }
    (pair,) = pairs(row)
    assert (pair.chosen.text, pair.rejected.text, pair.score_gap) == ("b", "a", 3)
    for grades, reason in (((2, 2), "tie"), ((2, None), "no preference given")):
        report = ImportReport()
        answers = [{"text": t, "grade": g} for t, g in zip("ab", grades, strict=True)]
        with pytest.raises(DataError, match="nothing is left"):
            pairs(row | {"completions": answers}, report=report)
        assert dict(report.dropped) == {reason: 1}
    for answers in (["a", "b"], [{"text": t, "grade": 1} for t in "abc"]):
        with pytest.raises(DataError, match=r"no column 'chosen'.*--as completions"):
            pairs({"prompt": "q", "completions": answers})


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array([t]) for t in "qab"], names=["prompt", "chosen", "chosen"]
    )
    pq.write_table(table, tmp_path / "r.parquet")
    with (
        pa.OSFile(str(tmp_path / "r.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    for name in ("r.parquet", "r.arrow"):
        with pytest.raises(DataError, match=rf"{name}: 'chosen' is the name of several columns"):
            list(file(path=tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.jsonl.zip", b"PK\x03\x04rest", r"compressed with zip.*unzip r\.jsonl\.zip"),
        ("r.jsonl", b"7z\xbc\xaf\x27\x1crest", r"compressed with 7z.*7z x r\.jsonl"),
        ("r.parquet", b"\x1f\x8b\x08rest", r"compressed with gzip.*in pieces.*gunzip r\.parquet"),
        ("r.jsonl.gz", b"\x1f\x8b\x08rest", "damaged gzip"),
        ("r.jsonl.bz2", b"BZh91AY&SYrest", "damaged bzip2"),
        ("r.jsonl.xz", b"\xfd7zXZ\x00rest", "damaged xz"),
        ("r.jsonl.zst", b"\x28\xb5\x2f\xfdrest", "damaged zstd"),
    ],
)
def test_what_cannot_be_unpacked(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(file(path=tmp_path / name, format="parquet" if "parquet" in name else "jsonl"))


def test_a_text_may_begin_as_bzip2_does(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("BZh,prompt\n1,q\n")
    assert [row.values["prompt"] for row in file(path=tmp_path / "r.csv")] == ["q"]


def test_an_unknown_ending_before_a_compression(tmp_path: Path) -> None:
    (tmp_path / "r.xlsx.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"r\.xlsx\.gz: cannot tell the format"):
        list(file(path=tmp_path / "r.xlsx.gz"))


def test_the_report_names_the_layout() -> None:
    report = ImportReport()
    vote = {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 1}
    pairs(vote, vote | {"prompt": "p"}, report=report)
    assert report.recognised() == ("recognised: 2 rows of the layout pku_safe_rlhf",)
    report = ImportReport()
    pairs({"prompt": "q", "chosen": "a", "rejected": "b"}, report=report)
    assert report.recognised() == ()
