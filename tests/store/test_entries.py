"""Rows to prompts, completions and pairs: the forms that users' data come in."""

from typing import Any

import pytest

from prefine.errors import DataError
from prefine.records import Prompt
from prefine.store import entries
from prefine.store.sources import Row


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(f"f.jsonl, line {number}", value) for number, value in enumerate(values, 1)]


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
    ["a", {"text": "a"}, {"content": "a"}, {"completion": "a"}, {"message": {"role": "assistant", "content": "a"}}],
)
def test_forms_of_a_completion(item: Any) -> None:
    ((prompt, (first, second)),) = entries.completions(rows({"prompt": "q", "completions": [item, "b"]}))
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
    (weighted,) = entries.pairs(rows(plain | {"weight": 2, "score_gap": 1.5, "p_chosen": 0.9, "topic": None}))
    assert (weighted.weight, weighted.score_gap, weighted.p_chosen) == (2, 1.5, 0.9)
    (unweighted,) = entries.pairs(rows(plain | {"weight": None}))
    assert unweighted.weight == 1


def test_reasoning_and_tool_calls_are_kept() -> None:
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}], "reasoning": "hm"}
    ((_, (completion,)),) = entries.completions(rows({"prompt": "q", "completions": [{"message": message}]}))
    assert completion.message.tool_calls == ({"function": {"name": "f"}},)
    assert completion.message.reasoning == "hm"


@pytest.mark.parametrize("value", [{"prompt": "q"}, {"instruction": "q"}])
def test_the_second_of_two_equal_prompts_is_named_with_the_first(value: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"f\.jsonl, line 2: the same prompt as in f\.jsonl, line 1"):
        list(entries.prompts(rows({"prompt": "q"}, value)))


def test_a_long_value_is_clipped_in_the_message() -> None:
    with pytest.raises(DataError) as caught:
        list(entries.prompts(rows({"prompt": ["x" * 100_000]})))
    assert len(str(caught.value)) < 300
