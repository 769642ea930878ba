"""Rows to prompts, completions and pairs: the forms that users' data come in."""

from typing import Any

import pytest

from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.run.item_rows import pair_of, pair_row


def rows(*values: dict[str, Any]) -> list[SourceRow]:
    return [SourceRow(f"f.jsonl, line {number}", value) for number, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "q"},
        {"instruction": "q"},
        {"messages": [{"role": "user", "content": "q"}]},
        {"prompt": [{"role": "user", "content": "q"}]},
        {"prompt": {"role": "user", "content": "q"}},
    ],
)
def test_forms_of_a_prompt(value: dict[str, Any]) -> None:
    (prompt,) = entries.prompts(rows(value | {"topic": "tea"}))
    assert prompt.id == Prompt.from_text("q").id
    assert prompt.metadata == {"topic": "tea"}
    assert prompt.source == "f.jsonl, line 1"


def test_texts_are_kept_to_the_byte() -> None:
    text = " <|im_start|>system\r\n</s>\x00 \u2028 [INST]\n"
    (prompt,) = entries.prompts(rows({"prompt": text}))
    assert prompt.text == text


@pytest.mark.parametrize(
    "item",
    [
        "a",
        {"text": "a"},
        {"content": "a"},
        {"completion": "a"},
        {"message": {"role": "assistant", "content": "a"}},
    ],
)
def test_forms_of_a_completion(item: Any) -> None:
    ((prompt, (first, second)),) = entries.completions(
        rows({"prompt": "q", "completions": [item, "b"]})
    )
    assert (first.text, second.text) == ("a", "b")
    assert (first.sample_index, second.sample_index) == (0, 1)
    assert first.prompt_id == second.prompt_id == prompt.id


def test_what_comes_with_a_completion_is_metadata() -> None:
    item = {"text": "a", "grade": 3, "model": "m", "finish_reason": "length"}
    ((_, (completion,)),) = entries.completions(rows({"prompt": "q", "completions": [item]}))
    assert completion.metadata == {"grade": 3}
    assert (completion.model, completion.finish_reason) == ("m", "length")


def test_equal_texts_are_two_completions() -> None:
    ((_, found),) = entries.completions(rows({"prompt": "q", "completions": ["a", "a"]}))
    assert len({completion.id for completion in found}) == 2


def test_forms_of_a_pair() -> None:
    plain = {"prompt": "q", "chosen": "a", "rejected": "b"}
    turns = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": {"role": "assistant", "content": "b"},
    }
    (one,), (two,) = entries.pairs(rows(plain)), entries.pairs(rows(turns))
    assert one.id == two.id
    (weighted,) = entries.pairs(
        rows(plain | {"weight": 2, "score_gap": 1.5, "p_chosen": 0.9, "topic": None})
    )
    assert (weighted.weight, weighted.score_gap, weighted.p_chosen) == (2, 1.5, 0.9)
    (unweighted,) = entries.pairs(rows(plain | {"weight": None}))
    assert unweighted.weight == 1


def test_reasoning_and_tool_calls_are_kept() -> None:
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f"}}],
        "reasoning": "hm",
    }
    ((_, (completion,)),) = entries.completions(
        rows({"prompt": "q", "completions": [{"message": message}]})
    )
    assert completion.message.tool_calls == ({"function": {"name": "f"}},)
    assert completion.message.reasoning == "hm"


@pytest.mark.parametrize("value", [{"prompt": "q"}, {"instruction": "q"}])
def test_the_second_of_two_equal_prompts_is_counted_and_strictly_named_with_the_first(
    value: dict[str, Any],
) -> None:
    report = ImportReport()
    assert len(list(entries.prompts(rows({"prompt": "q"}, value, {"prompt": "r"}), report))) == 2
    assert (report.read, report.kept, report.dropped) == (3, 2, {"duplicate prompt": 1})
    assert report.notes() == ("set aside: 1 × duplicate prompt (f.jsonl, line 2)",)
    with pytest.raises(
        DataError, match=r"f\.jsonl, line 2: the same prompt as in f\.jsonl, line 1.*--strict"
    ):
        list(entries.prompts(rows({"prompt": "q"}, value), ImportReport(strict=True)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": " "}, "empty prompt"),
        (
            {
                "prompt": [
                    {"role": "user", "content": " "},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "q"},
                ]
            },
            "empty turn",
        ),
        ({"chosen": ""}, "empty answer"),
        ({"rejected": "\n"}, "empty answer"),
        ({"rejected": "a"}, "identical answers"),
        ({"score_gap": 0}, "tie"),
        ({"prompt": "first"}, "duplicate pair"),
    ],
)
def test_worthless_pairs_are_counted(changes: dict[str, Any], reason: str) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    given = rows(pair | {"prompt": "first"}, pair | changes, pair | {"prompt": "last"})
    report = ImportReport()
    assert [found.prompt.text for found in entries.pairs(given, report)] == ["first", "last"]
    assert report.dropped == {reason: 1}
    with pytest.raises(DataError, match=r"f\.jsonl, line 2"):
        list(entries.pairs(given, ImportReport(strict=True)))


def test_a_prompt_whose_answers_are_all_empty_is_set_aside() -> None:
    report = ImportReport()
    given = rows(
        {"prompt": "q", "completions": ["", " "]}, {"prompt": "r", "completions": ["", "a"]}
    )
    ((prompt, (answer,)),) = entries.completions(given, report)
    assert (prompt.text, answer.text, answer.sample_index) == ("r", "a", 0)
    assert report.dropped == {"empty answer": 3, "no answer left": 1}


def test_nothing_left_is_an_error_with_counts_places_and_remedy() -> None:
    with pytest.raises(DataError, match="nothing is left of 5 rows") as caught:
        list(entries.prompts(rows(*[{"prompt": ""}] * 5)))
    for part in (
        "5 × empty prompt",
        "line 1; f.jsonl, line 2; f.jsonl, line 3; …",
        "remove the row or fill it",
    ):
        assert part in str(caught.value)


def test_prompts_can_be_read_from_pairs_and_completions() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "topic": "tea"}
    answers = {"prompt": "r", "completions": ["a"]}
    found = list(entries.prompts(rows(pair, answers, own_row())))
    assert [prompt.metadata for prompt in found] == [{"topic": "tea"}, {}, {}]


def test_tools_and_template_arguments_are_kept_also_as_json_text() -> None:
    tools, arguments = [{"type": "function"}], {"thinking": False}
    (one,) = entries.prompts(
        rows({"prompt": "q", "tools": tools, "chat_template_kwargs": arguments})
    )
    (two,) = entries.prompts(
        rows(
            {
                "prompt": "q",
                "tools": '[{"type": "function"}]',
                "chat_template_kwargs": '{"thinking": false}',
            }
        )
    )
    assert one.id == two.id
    assert (one.tools, one.chat_template_kwargs) == (({"type": "function"},), {"thinking": False})
    assert one.id != Prompt.from_text("q").id


def test_fields_that_a_table_fills_with_none_are_not_there() -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f"}}],
        "name": None,
    }
    answer = {"role": "tool", "content": "4", "name": "f", "tool_call_id": "1"}
    turns = [{"role": "user", "content": "q", "tool_calls": None}, call, answer]
    (prompt,) = entries.prompts(rows({"prompt": turns}))
    assert [message.role for message in prompt.messages] == ["user", "assistant", "tool"]
    assert prompt.messages[1].tool_calls == ({"function": {"name": "f"}},)
    assert prompt.messages[2].chat() == answer


def test_a_long_value_is_clipped_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        list(entries.prompts(rows({"prompt": ["x" * 100_000]})))
    assert len(str(caught.value)) < 300


def own_row(**changes: Any) -> dict[str, Any]:
    """A row of a `pairs/` table of ours, sampled with log-probabilities and cut by the limit on
    one side.
    """
    prompt = Prompt.make(
        (Message(role="system", content="be brief"), Message(role="user", content="q")),
        source="p.jsonl, line 7",
    )

    def completion(text: str, finish: str) -> Completion:
        return Completion.model_validate(
            {
                "id": f"id {text}",
                "prompt_id": prompt.id,
                "sample_index": 3,
                "message": {"role": "assistant", "content": text},
                "token_ids": [5, 6],
                "tokenizer_hash": "t",
                "sampled_logp": -2.5,
                "finish_reason": finish,
            }
        )

    pair = PreferencePair(
        prompt=prompt,
        chosen=completion("good", "stop"),
        rejected=completion("", "length"),
        p_chosen=0.8,
        weight=2.5,
    )
    return pair_row(pair) | changes


def test_our_own_pairs_come_back_whole() -> None:
    row = own_row()
    (pair,) = entries.pairs(rows(row))
    assert pair_row(pair) == row
    assert (pair.weight, pair.p_chosen, pair.rejected.finish_reason) == (2.5, 0.8, "length")
    assert pair.prompt.metadata == {}


def test_an_edited_text_of_our_own_pairs_is_another_text() -> None:
    before, row = pair_of(own_row()), own_row()
    row["chosen"] = [{"role": "assistant", "content": "better"}]
    (pair,) = entries.pairs(rows(row))
    assert pair.chosen.text == "better"
    assert (pair.chosen.token_ids, pair.chosen.sampled_logp) == (None, None)
    assert pair.rejected == before.rejected
    assert pair.id != before.id
    row["prompt"] = [{"role": "user", "content": "q"}]
    (pair,) = entries.pairs(rows(row))
    assert (
        pair.prompt.id
        == Prompt.from_text("q").id
        == pair.chosen.prompt_id
        == pair.rejected.prompt_id
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prefine_extra": "{"}, "Expecting"),
        ({"prefine_extra": None}, "None"),
        ({"prefine_p_chosen": 0.2}, "p_chosen"),
        ({"chosen": []}, "chosen must be one assistant turn"),
        ({"chosen": "good"}, "chosen must be one assistant turn"),
    ],
)
def test_our_own_pairs_spoilt(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        list(entries.pairs(rows(own_row(**changes))))
    for part in ("f.jsonl, line 1", "do not fit together", "remove all of them"):
        assert part in str(caught.value)
    missing = own_row()
    del missing["prefine_weight"]
    with pytest.raises(DataError, match="no column 'prefine_weight'"):
        list(entries.pairs(rows(missing)))


def test_answers_that_differ_only_in_their_calls_or_their_model_are_different() -> None:
    def calling(name: str) -> dict[str, Any]:
        return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name}}]}

    sides = [("f", "g"), ("g", "h"), ("f", "h")]
    pairs = [
        {"prompt": "q", "chosen": [calling(one)], "rejected": [calling(other)]}
        for one, other in sides
    ]
    report = ImportReport()
    assert len(list(entries.pairs(rows(*pairs), report))) == 3
    assert report.notes() == ()
    models = [
        {"prompt": "q", "completions": [{"text": "a", "model": model}]} for model in ("m", "n")
    ]
    first, second = (next(entries.completions(rows(row)))[1][0].id for row in models)
    assert first != second


def test_pairs_that_contradict_one_another_are_both_kept_with_a_remark() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    opposite = {"prompt": "q", "chosen": "b", "rejected": "a"}
    report = ImportReport()
    assert len(list(entries.pairs(rows(pair, opposite, pair | {"prompt": "p"}), report))) == 3
    assert report.notes() == ("kept: 1 × contradictory pair (f.jsonl, line 2)",)
    with pytest.raises(
        DataError, match=r"line 2: prefers the opposite of f\.jsonl, line 1.*--strict"
    ):
        list(entries.pairs(rows(pair, opposite), ImportReport(strict=True)))


def test_a_prompt_that_ends_in_the_assistants_words_needs_to_say_so() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Because"}]
    (prompt,) = entries.prompts(rows({"prompt": turns, "prefill": True}))
    assert prompt.messages[-1].content == "Because"
    with pytest.raises(DataError, match="prefill: true"):
        list(entries.prompts(rows({"prompt": turns, "prefill": False})))
