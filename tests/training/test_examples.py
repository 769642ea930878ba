"""Which pairs can be trained on, and what truncation keeps."""

from typing import Any

import pytest

import chat_tokenizers
from prefine import chat
from prefine.errors import DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.training.items import TextReader, TokenizedItems, make_items
from prefine.training.relations.choose import named_relation

TOKENIZER = chat_tokenizers.chatml()
STOP = chat.stop_token_id(TOKENIZER)
PROMPT = Prompt.from_text("Why?")


def _side(text: str, **fields: Any) -> Completion:
    message = Message(role="assistant", content=text, reasoning=fields.pop("reasoning", None))
    values = {
        "id": text,
        "prompt_id": PROMPT.id,
        "sample_index": 0,
        "finish_reason": "stop",
        **fields,
    }
    return Completion(**values, message=message)


def _pair(chosen: Completion | str, rejected: Completion | str, **fields: Any) -> PreferencePair:
    sides = [_side(side) if isinstance(side, str) else side for side in (chosen, rejected)]
    return PreferencePair(prompt=PROMPT, chosen=sides[0], rejected=sides[1], **fields)


def _make(*pairs: PreferencePair, **settings: Any) -> TokenizedItems:
    limits = {"max_prompt_tokens": 100, "max_completion_tokens": 100, **settings}
    return make_items(
        pairs, named_relation("pairs"), TextReader(TOKENIZER, stop_token_id=STOP, **limits)
    )


def test_a_pair_becomes_prompt_and_completions() -> None:
    made = _make(_pair("good", "bad", p_chosen=0.8, weight=2.0), _pair("fine", "poor"))
    first, second = made.items
    assert first.id == _pair("good", "bad").id
    assert list(first.prompt_ids) == chat.prompt_ids(TOKENIZER, PROMPT)
    assert TOKENIZER.decode(first.chosen_ids) == "good<|im_end|>"
    assert TOKENIZER.decode(first.rejected_ids) == "bad<|im_end|>"
    assert (first.p_chosen, first.weight, second.p_chosen, second.weight) == (0.8, 2.0, None, 1.0)
    assert (made.dropped, made.truncated) == ({}, {})


def test_truncation_keeps_the_end_of_the_prompt_and_the_start_of_the_completion() -> None:
    made = _make(
        _pair("good answer", "bad"), _pair("ok", "no"), max_prompt_tokens=5, max_completion_tokens=4
    )
    assert made.items[0].prompt_ids == tuple(chat.prompt_ids(TOKENIZER, PROMPT)[-5:])
    assert TOKENIZER.decode(made.items[0].chosen_ids) == "good"
    assert made.items[0].rejected_ids[-1] == STOP
    assert made.truncated == {"prompts": 2, "completions": 1}


def test_what_cannot_be_trained_on_is_counted_by_reason() -> None:
    cut, thought = _side("cut off", finish_reason="length"), _side("so", reasoning="Hm.")
    pairs = [
        _pair("kept", "other"),
        _pair("the same start", "the same start, then more"),
        _pair(cut, "whole"),
        _pair("whole", cut),
        _pair("something", ""),
        _pair(thought, "no"),
    ]
    made = _make(*pairs, max_completion_tokens=10)
    assert [example.id for example in made.items] == [pairs[0].id]
    assert made.dropped == {
        "sides_coincide": 1,
        "cut_by_generation_limit": 2,
        "empty_side": 1,
        "reasoning_or_tool_calls_without_token_ids": 1,
    }


def test_completions_that_were_cut_are_trained_on_when_asked_and_do_not_end() -> None:
    made = _make(_pair(_side("cut off", finish_reason="length"), "whole"), train_on_truncated=True)
    assert TOKENIZER.decode(made.items[0].chosen_ids) == "cut off"
    assert made.dropped == {}


def test_nothing_left_says_why() -> None:
    with pytest.raises(DataError, match=r"no preference pair is left .*empty_side: 1"):
        _make(_pair("something", ""))
    with pytest.raises(DataError, match="there was none"):
        _make()


def test_another_prompt_for_the_rejected_side_is_refused() -> None:
    with pytest.raises(DataError, match="rejected_prompt"):
        _make(_pair("good", "bad", rejected_prompt=Prompt.from_text("Who?")))


def test_a_prefilled_answer_is_scored_from_where_the_model_went_on() -> None:
    prompt = Prompt.make(
        (Message(role="user", content="Why?"), Message(role="assistant", content="Because"))
    )
    pair = _pair(" of rain", " of tea").model_copy(update={"prompt": prompt})
    (example,) = _make(pair).items
    assert TOKENIZER.decode(example.prompt_ids).endswith("assistant\nBecause")
    assert TOKENIZER.decode(example.chosen_ids) == " of rain<|im_end|>"


def test_reasoning_is_trained_on_where_the_template_writes_it() -> None:
    tokenizer = chat_tokenizers.reasoning()
    stop = chat.stop_token_id(tokenizer)
    pairs = [_pair(_side("so", reasoning="Hm."), "no")]
    made = make_items(
        pairs,
        named_relation("pairs"),
        TextReader(tokenizer, stop_token_id=stop, max_prompt_tokens=99, max_completion_tokens=99),
    )
    assert made.dropped == {}
    assert tokenizer.decode(made.items[0].chosen_ids) == "<think>\nHm.\n</think>\n\nso<|im_end|>"
