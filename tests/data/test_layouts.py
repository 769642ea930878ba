"""Each layout's rows in our own columns: what becomes prompt, answer, grade and metadata."""

from pathlib import Path
from typing import Any

import pytest

from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import ConfigError, DataError

SYSTEM = {"role": "system", "content": "be brief"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def own(*rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [
        row.values
        for row in shaped(
            (SourceRow(f"f, line {n}", row) for n, row in enumerate(rows, 1)), **options
        )
    ]


@pytest.mark.parametrize(
    "before",
    [
        [user("q")],
        [SYSTEM, user("q")],
        [user("q"), assistant("a"), user("more")],
        [
            user("q"),
            {"role": "assistant", "content": "", "tool_calls": [{}]},
            {"role": "tool", "content": "4"},
        ],
    ],
)
def test_implicit_prompts_end_where_the_messages_differ(before: list[dict[str, Any]]) -> None:
    row = {
        "chosen": [*before, assistant("abcd")],
        "rejected": [*before, assistant("abce")],
        "tools": [{"f": 1}],
    }
    assert own(row) == [
        {
            "prompt": before,
            "chosen": [assistant("abcd")],
            "rejected": [assistant("abce")],
            "tools": [{"f": 1}],
        }
    ]


def test_marked_turns_become_messages() -> None:
    before = "\n\nHuman: q\nwith: colons\n\nAssistant: a\n\nHuman: more\n\nAssistant:"
    (row,) = own({"chosen": f"{before} good\n\nsecond paragraph", "rejected": f"{before} goof"})
    assert row == {
        "prompt": [user("q\nwith: colons"), assistant("a"), user("more")],
        "chosen": [assistant("good\n\nsecond paragraph")],
        "rejected": [assistant("goof")],
    }


def test_ultrafeedback_grades_and_keeps_the_rest() -> None:
    answer = {
        "model": "m",
        "response": "a",
        "overall_score": 8,
        "fine-grained_score": 4.5,
        "custom_system_prompt": "s",
    }
    (row,) = own({"source": "x", "instruction": "q", "models": ["m"], "completions": [answer]})
    ((prompt, (found,)),) = entries.completions([SourceRow("f", row)])
    assert (prompt.text, prompt.metadata) == ("q", {"source": "x"})
    assert (found.text, found.model) == ("a", "m")
    assert found.metadata == {"grade": 8, "fine-grained_score": 4.5, "custom_system_prompt": "s"}


def test_binarized_answers_do_not_repeat_the_question() -> None:
    row = {
        "prompt": "q",
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("b")],
        "messages": [user("q"), assistant("a")],
        "score_chosen": 8.0,
        "score_rejected": 6.5,
    }
    (pair,) = entries.pairs([SourceRow("f", value) for value in own(row)])
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text, pair.score_gap) == (
        "q",
        "a",
        "b",
        1.5,
    )
    plain = {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
        "score_chosen": 8.0,
        "score_rejected": 6.5,
    }
    (same,) = entries.pairs([SourceRow("f", value) for value in own(plain)])
    assert same.id == pair.id


def test_helpsteer_rows_of_one_prompt_are_grouped_wherever_they_are() -> None:
    def row(prompt: str, response: str, grade: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": grade, "verbosity": 1}

    found = own(row("q", "a", 3), row("p", "b", 1), row("q", "c", 4))
    assert [
        (one["prompt"], [(c["text"], c["grade"]) for c in one["completions"]]) for one in found
    ] == [
        ("q", [("a", 3), ("c", 4)]),
        ("p", [("b", 1)]),
    ]
    (many,) = own(row("q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nmore", "b", 3))
    assert many["prompt"] == [user("q"), assistant("a"), user("more")]
    assert (
        len(own(row("q", "a", 3), row("p", "b", 1), row("q", "c", 4), limit=1)[0]["completions"])
        == 2
    )


@pytest.mark.parametrize(
    ("strength", "chosen"), [(-3, "one"), (-1, "one"), (1, "two"), ("2", "two")]
)
def test_helpsteer_preferences(strength: Any, chosen: str) -> None:
    second = {
        "prompt": "q",
        "response_1": "one",
        "response_2": "two",
        "preference_strength": strength,
    }
    third = {
        "context": [user("q")],
        "response1": "one",
        "response2": "two",
        "overall_preference": strength,
    }
    for row in (*own(second), *own(third)):
        assert (row["chosen"], row["score_gap"]) == (chosen, abs(float(strength)))


def test_alpaca_eval_outputs_of_several_models() -> None:
    rows = [
        {"instruction": q, "output": f"{m} {q}", "generator": m, "dataset": "d"}
        for m in ("m", "n")
        for q in ("q", "p")
    ]
    groups = list(
        entries.completions(shaped(SourceRow(f"f, line {n}", row) for n, row in enumerate(rows)))
    )
    assert [(prompt.text, [answer.model for answer in found]) for prompt, found in groups] == [
        ("q", ["m", "n"]),
        ("p", ["m", "n"]),
    ]


def test_arena_hard_answers(tmp_path: Path) -> None:
    questions = tmp_path / "question.jsonl"
    questions.write_text(
        '{"question_id": "1", "turns": [{"content": "q"}]}\n{"uid": "2", "prompt": "p"}\n'
    )
    old = {
        "question_id": "1",
        "model_id": "m",
        "choices": [{"turns": [{"content": "a"}]}],
        "tstamp": 1,
    }
    (row,) = own(old, questions=questions)
    assert row == {"prompt": "q", "completions": [{"text": "a", "model": "m", "tstamp": 1}]}
    (row,) = own({"uid": "2", "model": "m", "messages": [user("p"), assistant({"answer": "b"})]})
    assert row == {"prompt": [user("p")], "completions": [{"text": "b", "model": "m"}]}
    with pytest.raises(ConfigError, match="questions: path"):
        own(old)
    (row,) = own({"question_id": "1", "category": "c", "turns": [{"content": "q"}]})
    assert row == {"question_id": "1", "category": "c", "prompt": "q"}


def test_two_layouts_are_refused_and_a_name_decides() -> None:
    row = {"prompt": "q", "response": "a", "helpfulness": 3, "completions": ["b", "c"]}
    with pytest.raises(
        DataError, match=r"line 1: the columns fit prefine and helpsteer.*layout: helpsteer"
    ):
        own(row)
    assert own(row, layout="prefine") == [row]
    assert own(row, layout="helpsteer")[0]["completions"] == [
        {"text": "a", "grade": 3, "completions": ["b", "c"]}
    ]


def test_columns_are_renamed_before_the_layout_is_recognised() -> None:
    row = {"conversation": [user("q")], "a": "one", "b": "two", "overall_preference": -1}
    renamed = {"context": "conversation", "response1": "a", "response2": "b"}
    assert own(row, columns=renamed)[0]["chosen"] == "one"


HH_PROMPT = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more\n\nAssistant:"


@pytest.mark.parametrize("prompt", [HH_PROMPT, HH_PROMPT + " ", HH_PROMPT.lstrip()])
def test_a_prompt_with_marks_becomes_messages(prompt: str) -> None:
    turns = [user("q"), assistant("a"), user("more")]
    assert own({"prompt": prompt, "response": " good", "chosen": " good", "rejected": " bad"}) == [
        {"prompt": turns, "response": " good", "chosen": "good", "rejected": "bad"}
    ]
    assert own({"prompt": prompt, "response": " good"}) == [
        {"prompt": turns, "completions": [{"text": "good"}]}
    ]
    assert own({"prompt": prompt, "prefine_layout": "prefine"}) == [{"prompt": prompt}]


def test_a_text_that_only_mentions_marks_is_a_text() -> None:
    for text in ("Human: says\n\nAssistant: answers", "Continue\n\nHuman: q\n\nAssistant:"):
        assert own({"prompt": text, "chosen": "a", "rejected": "b"})[0]["prompt"] == text


def test_marks_without_the_leading_empty_line() -> None:
    (row,) = own(
        {"chosen": "Human: q\n\nAssistant: good", "rejected": "Human: q\n\nAssistant: bad"}
    )
    assert row == {
        "prompt": [user("q")],
        "chosen": [assistant("good")],
        "rejected": [assistant("bad")],
    }


@pytest.mark.parametrize(
    "before", [[user("q")], [SYSTEM, user("q")], [user("q"), assistant("a"), user("more")]]
)
@pytest.mark.parametrize("prompt", ["q", " q\n", "turns"])
def test_a_prompt_beside_conversations_that_repeat_it(
    before: list[dict[str, Any]], prompt: str
) -> None:
    row = {
        "chosen": [*before, assistant("good")],
        "rejected": [*before, assistant("bad")],
        "source": "s",
    }
    assert own(row | {"prompt": before if prompt == "turns" else prompt}) == [
        {
            "prompt": before,
            "chosen": [assistant("good")],
            "rejected": [assistant("bad")],
            "source": "s",
        }
    ]


def test_one_row_that_cannot_be_split_does_not_end_the_others() -> None:
    good = {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]}
    early = {
        "chosen": [user("q"), assistant("x"), user("r")],
        "rejected": good["rejected"],
    }
    report = ImportReport()
    rows = shaped([SourceRow("f, line 1", early), SourceRow("f, line 2", good)])
    assert [pair.chosen.text for pair in entries.pairs(rows, report)] == ["good"]
    assert (report.read, dict(report.dropped)) == (2, {"cannot be split at one answer": 1})
    with pytest.raises(
        DataError, match=r"nothing is left of 1 rows(.|\n)*begin and end with the assistant's"
    ):
        list(entries.pairs(shaped([SourceRow("f, line 1", early)])))


def test_rows_of_one_sample_are_grouped() -> None:
    rows = [
        {"prompt": q, "completion": a, "topic": "t"}
        for q, a in (("q", "a"), ("p", "b"), ("q", "c"), ("q", "a"))
    ]
    found = own(*rows, {"prompt": "q", "completion": [assistant("d")], "tools": [{"f": 1}]})
    assert [
        (row["prompt"], [answer["text"] for answer in row["completions"]]) for row in found
    ] == [
        ("q", ["a", "c", "a"]),
        ("p", ["b"]),
        ("q", [[assistant("d")]]),
    ]
    assert [answer["topic"] for answer in found[0]["completions"]] == ["t"] * 3
    assert len(own(*rows, limit=1)[0]["completions"]) == 3 and len(own(*rows, limit=1)) == 1
    (alpaca,) = own(
        {"instruction": "add", "input": "1 2", "output": "3"},
        {"instruction": "add", "input": "1 2", "output": "4"},
    )
    assert (alpaca["instruction"], len(alpaca["completions"])) == ("add\n\n1 2", 2)


def test_completions_of_equal_prompts_come_together_and_are_numbered_as_they_stand() -> None:
    rows = [
        {"prompt": q, "completions": list(answers)}
        for q, answers in (("q", "ab"), ("p", "c"), ("q", "bd"))
    ]
    given = [SourceRow(f"f, line {n}", row) for n, row in enumerate(rows, 1)]
    report = ImportReport()
    found = list(entries.completions(shaped(given), report))
    assert [
        (prompt.text, [(a.sample_index, a.text) for a in answers]) for prompt, answers in found
    ] == [
        ("q", [(0, "a"), (1, "b"), (2, "b"), (3, "d")]),
        ("p", [(0, "c")]),
    ]
    assert len({answer.id for _, answers in found for answer in answers}) == 5
    assert (report.read, report.dropped) == (2, {})
    given[2].values["completions"][1] = ""
    list(entries.completions(shaped(given), report := ImportReport()))
    assert report.notes() == ("set aside: 1 × empty answer (f, line 3, completion 1)",)
    assert len(list(shaped(given, limit=1))) == 1


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_column_is_the_first_turn(name: str) -> None:
    pair = {"chosen": "a", "rejected": "b"}
    assert own({"prompt": "q", name: "be brief"} | pair) == [{"prompt": [SYSTEM, user("q")]} | pair]
    assert own({"prompt": [user("q")], name: "be brief"} | pair) == [
        {"prompt": [SYSTEM, user("q")]} | pair
    ]
    for kept in (
        {"prompt": "q", name: ""},
        {"prompt": [SYSTEM, user("q")], name: "other"},
        {"prompt": "q", name: 3},
    ):
        assert own(kept | pair) == [kept | pair]


def test_an_input_belongs_to_its_instruction() -> None:
    assert own({"instruction": "add", "input": "1 2"}) == [{"instruction": "add\n\n1 2"}]
    assert own({"instruction": "add", "input": ""}) == [{"instruction": "add", "input": ""}]
    assert own({"prompt": "add", "input": "1 2"}) == [{"prompt": "add", "input": "1 2"}]


def test_messages_that_begin_with_the_prompt_are_metadata() -> None:
    row = {"prompt": "q", "messages": [user("q"), assistant("a")]}
    assert own(row) == [{"prompt": "q", "unused_messages": row["messages"]}]
    other = {"prompt": "q", "messages": [user("p"), assistant("a")]}
    with pytest.raises(
        DataError, match=r"both 'prompt' and 'messages' could be the prompt.*columns, such as"
    ):
        list(entries.prompts([SourceRow("f", value) for value in own(other)]))
    (mapped,) = own(other, columns={"prompt": "prompt"})
    assert mapped == {"prompt": "q", "unused_messages": other["messages"]}
    pairs = {
        "messages": [user("q")],
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("b")],
    }
    assert own(pairs)[0]["prompt"] == [user("q")]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("score_chosen", "score_rejected"),
        ("chosen-rating", "rejected-rating"),
        ("chosen_avg_rating", "rejected_avg_rating"),
        ("rating_chosen", "rating_rejected"),
    ],
)
def test_two_scores_are_a_gap_whatever_the_layout(better: str, worse: str) -> None:
    explicit = {"prompt": "q", "chosen": "a", "rejected": "b"}
    implicit = {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}
    marked = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    for row in (explicit, implicit, marked, implicit | {"prompt": "q"}):
        (pair,) = entries.pairs(shaped([SourceRow("f", row | {better: "8", worse: 6.5})]))
        assert pair.score_gap == 1.5
        (pair,) = entries.pairs(shaped([SourceRow("f", row | {better: None, worse: None})]))
        assert pair.score_gap is None
        for scores, reason in (((3, 3), "tie"), ((2, 3), "scores say the opposite")):
            report = ImportReport()
            with pytest.raises(DataError, match="nothing is left"):
                list(
                    entries.pairs(
                        shaped([SourceRow("f", row | {better: scores[0], worse: scores[1]})]),
                        report,
                    )
                )
            assert report.dropped == {reason: 1}
            assert (
                len(
                    list(
                        entries.prompts(
                            shaped([SourceRow("f", row | {better: scores[0], worse: scores[1]})])
                        )
                    )
                )
                == 1
            )
    (stated,) = entries.pairs([SourceRow("f", explicit | {"score_gap": 0.5, better: 1, worse: 3})])
    assert stated.score_gap == 0.5
