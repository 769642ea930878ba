"""Each layout's rows in our own columns: what becomes prompt, answer, grade and metadata."""

from pathlib import Path
from typing import Any

import pytest

from prefine.errors import ConfigError, DataError
from prefine.store import entries
from prefine.store.layouts.base import Row
from prefine.store.sources import shaped

SYSTEM = {"role": "system", "content": "be brief"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def own(*rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [row.values for row in shaped((Row(f"f, line {n}", row) for n, row in enumerate(rows, 1)), **options)]


@pytest.mark.parametrize(
    "before",
    [
        [user("q")],
        [SYSTEM, user("q")],
        [user("q"), assistant("a"), user("more")],
        [user("q"), {"role": "assistant", "content": "", "tool_calls": [{}]}, {"role": "tool", "content": "4"}],
    ],
)
def test_implicit_prompts_end_where_the_messages_differ(before: list[dict[str, Any]]) -> None:
    row = {"chosen": [*before, assistant("abcd")], "rejected": [*before, assistant("abce")], "tools": [{"f": 1}]}
    assert own(row) == [
        {"prompt": before, "chosen": [assistant("abcd")], "rejected": [assistant("abce")], "tools": [{"f": 1}]}
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
    answer = {"model": "m", "response": "a", "overall_score": 8, "fine-grained_score": 4.5, "custom_system_prompt": "s"}
    (row,) = own({"source": "x", "instruction": "q", "models": ["m"], "completions": [answer]})
    ((prompt, (found,)),) = entries.completions([Row("f", row)])
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
    (pair,) = entries.pairs([Row("f", value) for value in own(row)])
    assert (pair.prompt.text, pair.chosen.text, pair.rejected.text, pair.score_gap) == ("q", "a", "b", 1.5)
    plain = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 8.0, "score_rejected": 6.5}
    (same,) = entries.pairs([Row("f", value) for value in own(plain)])
    assert same.id == pair.id


def test_helpsteer_rows_of_one_prompt_are_grouped_wherever_they_are() -> None:
    def row(prompt: str, response: str, grade: int) -> dict[str, Any]:
        return {"prompt": prompt, "response": response, "helpfulness": grade, "verbosity": 1}

    found = own(row("q", "a", 3), row("p", "b", 1), row("q", "c", 4))
    assert [(one["prompt"], [(c["text"], c["grade"]) for c in one["completions"]]) for one in found] == [
        ("q", [("a", 3), ("c", 4)]),
        ("p", [("b", 1)]),
    ]
    (many,) = own(row("q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nmore", "b", 3))
    assert many["prompt"] == [user("q"), assistant("a"), user("more")]
    assert len(own(row("q", "a", 3), row("p", "b", 1), row("q", "c", 4), limit=1)[0]["completions"]) == 2


@pytest.mark.parametrize(("strength", "chosen"), [(-3, "one"), (-1, "one"), (1, "two"), ("2", "two")])
def test_helpsteer_preferences(strength: Any, chosen: str) -> None:
    second = {"prompt": "q", "response_1": "one", "response_2": "two", "preference_strength": strength}
    third = {"context": [user("q")], "response1": "one", "response2": "two", "overall_preference": strength}
    for row in (*own(second), *own(third)):
        assert (row["chosen"], row["score_gap"]) == (chosen, abs(float(strength)))


def test_alpaca_eval_outputs_of_several_models() -> None:
    rows = [
        {"instruction": q, "output": f"{m} {q}", "generator": m, "dataset": "d"} for m in ("m", "n") for q in ("q", "p")
    ]
    groups = list(entries.completions(shaped(Row(f"f, line {n}", row) for n, row in enumerate(rows))))
    assert [(prompt.text, [answer.model for answer in found]) for prompt, found in groups] == [
        ("q", ["m", "n"]),
        ("p", ["m", "n"]),
    ]


def test_arena_hard_answers(tmp_path: Path) -> None:
    questions = tmp_path / "question.jsonl"
    questions.write_text('{"question_id": "1", "turns": [{"content": "q"}]}\n{"uid": "2", "prompt": "p"}\n')
    old = {"question_id": "1", "model_id": "m", "choices": [{"turns": [{"content": "a"}]}], "tstamp": 1}
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
    with pytest.raises(DataError, match=r"line 1: the columns fit prefine and helpsteer.*layout: helpsteer"):
        own(row)
    assert own(row, layout="prefine") == [row]
    assert own(row, layout="helpsteer")[0]["completions"] == [{"text": "a", "grade": 3, "completions": ["b", "c"]}]


def test_columns_are_renamed_before_the_layout_is_recognised() -> None:
    row = {"conversation": [user("q")], "a": "one", "b": "two", "overall_preference": -1}
    renamed = {"context": "conversation", "response1": "a", "response2": "b"}
    assert own(row, columns=renamed)[0]["chosen"] == "one"
