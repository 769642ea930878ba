"""The look at the first rows: what is refused, what is noted."""

from typing import Any

import pytest

import chat_tokenizers
from prefine import chat
from prefine.errors import ConfigError, DataError
from prefine.records import Completion, Message, PreferencePair, Prompt
from prefine.training.items import TextReader, make_items
from prefine.training.relations.choose import named_relation
from prefine.training.token_check import ROWS, check_tokens

CHATML, MISTRAL = chat_tokenizers.chatml(), chat_tokenizers.mistral()


def _side(text: str, prompt: Prompt, **fields: Any) -> Completion:
    values = {
        "id": text,
        "prompt_id": prompt.id,
        "sample_index": 0,
        "finish_reason": "stop",
        **fields,
    }
    return Completion(**values, message=Message(role="assistant", content=text))


def _pair(number: int = 1, chosen: Any = None, rejected: Any = None) -> PreferencePair:
    prompt = Prompt.from_text(f"question {number}", source=f"pairs.jsonl, line {number}")
    return PreferencePair(
        prompt=prompt,
        chosen=_side(f"the tea {number}", prompt, **chosen or {}),
        rejected=_side(f"an answer {number}", prompt, **rejected or {}),
    )


def _checked(*pairs: PreferencePair, tokenizer: Any = CHATML, **limits: int) -> list[str]:
    stop = chat.stop_token_id(tokenizer)
    sizes = {"max_prompt_tokens": 200, "max_completion_tokens": 200} | limits
    made = make_items(
        pairs,
        named_relation("pairs"),
        TextReader(tokenizer, stop_token_id=stop, train_on_truncated=True, **sizes),
    )
    return check_tokens(
        pairs, made.items, tokenizer, kind=named_relation("pairs"), stop_token_id=stop
    )


def _stored(tokenizer: Any, text: str, *more: int) -> dict[str, Any]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"token_ids": (*ids, *more), "tokenizer_hash": chat.tokenizer_hash(tokenizer)}


def test_good_rows_leave_no_notes() -> None:
    assert _checked(_pair(1), _pair(2)) == []
    assert _checked(_pair(1, chosen=_stored(CHATML, "the tea 1", chat.stop_token_id(CHATML)))) == []


@pytest.mark.parametrize(
    "tokenizer", [chat_tokenizers.gemma(), chat_tokenizers.llama3(), chat_tokenizers.reasoning()]
)
def test_good_rows_of_other_templates(tokenizer: Any) -> None:
    assert _checked(_pair(1), tokenizer=tokenizer) == []


def test_rows_that_would_merge_across_the_boundary_are_counted() -> None:
    """Its template ends the prompt without a space, with which this tokenizer begins every text."""
    tokenizer = chat_tokenizers.mistral()
    template = tokenizer.chat_template.replace("' [/INST]'", "' [/INST] a'")
    tokenizer.chat_template = template.replace("' ' + message.content", "message.content")
    stop = chat.stop_token_id(tokenizer)
    sampled = [_pair(n, chosen=_stored(tokenizer, f"the tea {n}", stop)) for n in (1, 2)]
    (note,) = _checked(*sampled, tokenizer=tokenizer)
    assert note.startswith("2 of the first 2 rows (100 %) would have other tokens")
    # The tokens of a text are those that it has behind its prompt.
    assert _checked(_pair(1), _pair(2), tokenizer=tokenizer) == []


def test_truncated_and_cut_rows_pass() -> None:
    assert _checked(_pair(1), max_prompt_tokens=9, max_completion_tokens=5) == []
    cut = {"finish_reason": "length"} | _stored(CHATML, "the tea 1")
    assert _checked(_pair(1, chosen=cut)) == []


def test_ids_of_another_text_are_refused_with_their_row() -> None:
    with pytest.raises(
        DataError,
        match=r"pairs\.jsonl, line 2, pair \w+, rejected: .*'an answer 2' became 'something",
    ):
        _checked(
            _pair(1),
            _pair(2, rejected=_stored(CHATML, "something else", chat.stop_token_id(CHATML))),
        )


def test_characters_that_the_tokenizer_loses_are_refused() -> None:
    tokenizer = chat_tokenizers.mistral()
    backend = tokenizer.backend_tokenizer
    backend.model.byte_fallback = False
    with pytest.raises(DataError, match=r"line 1, pair \w+, chosen: the text does not come back"):
        _checked(
            PreferencePair(
                prompt=_pair().prompt,
                chosen=_side("日本", _pair().prompt),
                rejected=_side("so", _pair().prompt),
            ).model_copy(),
            tokenizer=tokenizer,
        )


def test_more_than_one_turn_in_the_stored_ids_is_refused() -> None:
    stop = chat.stop_token_id(CHATML)
    twice = _stored(CHATML, "the tea 1", stop, *CHATML(" and more")["input_ids"], stop)
    with pytest.raises(
        DataError,
        match=r"chosen: the token that ends a turn \(id \d+\) is also inside .* after 9 tokens",
    ):
        _checked(_pair(1, chosen=twice))


def test_two_start_tokens_are_refused() -> None:
    tokenizer = chat_tokenizers.llama3()
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(ConfigError, match=r"line 1, .*two start tokens"):
        _checked(_pair(1), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("<|im_end|>\n{% endfor %}", "\n{% endfor %}"),
            "ends an answer with '\\\\n', training with '<|endoftext|>'",
        ),
        (
            ("{% if add_generation_prompt %}", "{% if false %}"),
            "does not write an answer right behind the prompt",
        ),
    ],
)
def test_a_template_that_goes_on_otherwise_is_noted(change: tuple[str, str], says: str) -> None:
    tokenizer = chat_tokenizers.chatml()
    tokenizer.chat_template = tokenizer.chat_template.replace(*change)
    (note,) = _checked(_pair(1), _pair(2), tokenizer=tokenizer)
    assert says.replace("\\\\", "\\") in note


def test_opened_reasoning_is_compared_with_what_is_trained_on() -> None:
    prompt = _pair().prompt
    pair = PreferencePair(
        prompt=prompt,
        chosen=_side("<think>\nHm.</think>a", prompt),
        rejected=_side("Hm.</think>b", prompt),
    )
    (note,) = _checked(pair, tokenizer=chat_tokenizers.reasoning(opened=True))
    assert "does not write an answer right behind the prompt" in note


def test_only_the_first_rows_are_read() -> None:
    pairs = [_pair(number) for number in range(ROWS + 20)]
    stop = chat.stop_token_id(CHATML)
    made = make_items(
        pairs,
        named_relation("pairs"),
        TextReader(CHATML, stop_token_id=stop, max_prompt_tokens=99, max_completion_tokens=99),
    )
    rest = iter(pairs)
    check_tokens(rest, made.items, CHATML, kind=named_relation("pairs"), stop_token_id=stop)
    assert len(list(rest)) == 20
