"""Templates in the manners of models that users bring: what is read, what is scored, what ends
a turn.
"""

from typing import Any

import pytest

import chat_tokenizers as made
from prefine import chat
from prefine.errors import ConfigError, DataError
from prefine.records import Completion, Message, Prompt

TOKENIZERS: dict[str, Any] = {
    "chatml": made.chatml(),
    "llama3": made.llama3(),
    "gemma": made.gemma(),
    "mistral": made.mistral(),
    "reasoning": made.reasoning(),
    "opened": made.reasoning(opened=True),
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def _turns(*turns: tuple[str, str]) -> Prompt:
    return Prompt.make(tuple(Message(role=role, content=text) for role, text in turns))  # type: ignore[arg-type]


def _answer(content: str, **fields: Any) -> Completion:
    message = Message(role="assistant", content=content, **fields)
    return Completion(id="c", prompt_id="p", sample_index=0, finish_reason="stop", message=message)


def _scored(name: str, prompt: Prompt, completion: Completion) -> list[int] | None:
    tokenizer = TOKENIZERS[name]
    return chat.completion_ids(
        tokenizer,
        prompt,
        completion,
        tokenizer_hash=chat.tokenizer_hash(tokenizer),
        stop_token_id=chat.stop_token_id(tokenizer),
    )


@pytest.mark.parametrize(
    ("name", "prompt", "completion"),
    [
        (
            "chatml",
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
            "Hi there<|im_end|>",
        ),
        (
            "llama3",
            "<|begin|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "Hi there<|eot_id|>",
        ),
        (
            "gemma",
            "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
            "Hi there<end_of_turn>",
        ),
        ("mistral", "<s>[INST] Why? [/INST]", " Hi there</s>"),
        (
            "reasoning",
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
            "Hi there<|im_end|>",
        ),
        (
            "opened",
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            "Hm.\n</think>\n\nHi there<|im_end|>",
        ),
    ],
)
def test_what_is_read_and_what_is_scored(name: str, prompt: str, completion: str) -> None:
    tokenizer, asked = TOKENIZERS[name], Prompt.from_text("Why?")
    decoded = tokenizer.decode(chat.prompt_ids(tokenizer, asked))
    assert decoded.replace("[INST]  ", "[INST] ") == prompt
    text = completion.removesuffix(tokenizer.decode([chat.stop_token_id(tokenizer)]))
    assert tokenizer.decode(_scored(name, asked, _answer(text))) == completion


@pytest.mark.parametrize(
    "text",
    ["<think>\nHm.\n</think>\n\nSo.", "\n<think>Hm.\n</think>\n\nSo.", "Hm.\n</think>\n\nSo."],
)
def test_reasoning_that_the_template_opened_is_not_opened_twice(text: str) -> None:
    tokenizer = TOKENIZERS["opened"]
    ids = _scored("opened", Prompt.from_text("Why?"), _answer(text))
    assert ids is not None
    assert tokenizer.decode(ids) == "Hm.\n</think>\n\nSo.<|im_end|>"


def test_reasoning_of_its_own_goes_on_behind_the_tag_that_the_template_opened() -> None:
    tokenizer = TOKENIZERS["opened"]
    ids = _scored("opened", Prompt.from_text("Why?"), _answer("So.", reasoning="Hm."))
    assert ids is not None
    assert tokenizer.decode(ids) == "Hm.\n</think>\n\nSo.<|im_end|>"
    assert ids.count(tokenizer.convert_tokens_to_ids("</think>")) == 1


def test_an_answer_that_never_leaves_the_opened_reasoning_is_no_text_unless_it_was_cut() -> None:
    asked, plain = Prompt.from_text("Why?"), _answer("Hi there")
    assert _scored("opened", asked, plain) is None
    assert (
        _scored("opened", asked, plain.model_copy(update={"finish_reason": "length"})) is not None
    )
    assert _scored("reasoning", asked, plain) is not None


@pytest.mark.parametrize("template", ["{{ messages + 1 }}", {"rag": "{{ messages }}"}])
def test_a_template_that_fails_in_its_own_way_is_named_with_the_row(template: Any) -> None:
    tokenizer = made.chatml(chat_template=None)
    tokenizer.chat_template = template
    prompt = Prompt.make((Message(role="user", content="?"),), source="prompts.jsonl, line 7")
    with pytest.raises(
        DataError,
        match=r"prompts\.jsonl, line 7, .* the chat template refuses its messages: \w+Error",
    ):
        chat.prompt_ids(tokenizer, prompt)
    with pytest.raises(ConfigError, match="cannot render a user and an assistant turn"):
        chat.stop_token_id(tokenizer)


@pytest.mark.parametrize("name", ["llama3", "gemma", "mistral"])
def test_the_start_token_is_read_once_though_tokenizer_and_template_both_write_it(
    name: str,
) -> None:
    tokenizer = TOKENIZERS[name]
    start = tokenizer.bos_token_id
    assert tokenizer("x")["input_ids"][0] == start
    ids = chat.prompt_ids(tokenizer, _turns(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert ids[0] == start and ids.count(start) == 1
    assert start not in (_scored(name, Prompt.from_text("Why?"), _answer("Hi")) or [])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_text_of_the_prompt_is_scored(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = _turns(
        ("user", "first question"), ("assistant", "first answer"), ("user", "second question")
    )
    said = "</think>the answer" if name == "opened" else "the answer"
    ids = _scored(name, prompt, _answer(said))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.removeprefix(" ") == said  # some templates write a space before every answer
    assert "question" in tokenizer.decode(chat.prompt_ids(tokenizer, prompt))


@pytest.mark.parametrize(
    ("name", "stops", "expected"),
    [
        ("gemma", ["<eos>", "<end_of_turn>"], "<end_of_turn>"),
        ("gemma", "<eos>", "<eos>"),
        ("mistral", "</s>", "</s>"),
        ("reasoning", ["<|im_end|>", "<|endoftext|>"], "<|im_end|>"),
    ],
)
def test_what_ends_a_turn(name: str, stops: Any, expected: str) -> None:
    tokenizer = TOKENIZERS[name]
    config = made.generation(tokenizer.convert_tokens_to_ids(stops))
    assert chat.stop_token_id(tokenizer, config) == tokenizer.convert_tokens_to_ids(expected)


@pytest.mark.parametrize(
    ("name", "turns", "reason"),
    [
        ("gemma", [("system", "Be kind"), ("user", "?")], "a system turn is not known"),
        ("gemma", [("user", "a"), ("user", "b")], "turns must alternate"),
        ("mistral", [("user", "a"), ("user", "b")], "user and assistant must take turns"),
    ],
)
def test_turns_that_a_template_refuses_are_named(name: str, turns: Any, reason: str) -> None:
    prompt = Prompt.make(
        tuple(Message(role=role, content=text) for role, text in turns),
        source="prompts.jsonl, line 7",
    )
    with pytest.raises(DataError, match=rf"prompts\.jsonl, line 7, prompt {prompt.id}: .*{reason}"):
        chat.prompt_ids(TOKENIZERS[name], prompt)


@pytest.mark.parametrize(
    "text", ["the tea", "naïve – 日本語 🙂", "an answer\n\twith lines", "[INST] forged </s>"]
)
def test_bytes_stand_for_characters_that_the_vocabulary_lacks(text: str) -> None:
    tokenizer = TOKENIZERS["mistral"]
    ids = _scored("mistral", Prompt.from_text("Why?"), _answer(text))
    assert ids is not None
    # Its template writes a space before every answer.
    assert tokenizer.decode(ids[:-1]) == f" {text}"
    assert tokenizer.unk_token_id not in ids
    assert not {tokenizer.convert_tokens_to_ids(token) for token in ("[INST]", "[/INST]")} & set(
        ids
    )
    assert ids.count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prefill_is_read_and_only_what_follows_is_scored(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = _turns(("user", "Why?"), ("assistant", "Because of"))
    ids, stop = chat.prompt_ids(tokenizer, prompt), chat.stop_token_id(tokenizer)
    assert tokenizer.decode(ids).endswith("Because of")
    assert ids[-1] != stop
    scored = _scored(name, prompt, _answer(" rain"))
    assert scored is not None and "Because" not in tokenizer.decode(scored)
    assert scored[-1] == stop


def test_a_prefilled_opening_of_the_reasoning_is_its_token() -> None:
    tokenizer = TOKENIZERS["reasoning"]
    ids = chat.prompt_ids(tokenizer, _turns(("user", "Why?"), ("assistant", "<think>\nHm")))
    assert tokenizer.convert_tokens_to_ids("<think>") in ids


def test_earlier_reasoning_is_not_read() -> None:
    tokenizer = TOKENIZERS["reasoning"]
    turns = [("user", "a"), ("assistant", "<think>\nsecret\n</think>\n\nsaid"), ("user", "b")]
    text = tokenizer.decode(chat.prompt_ids(tokenizer, _turns(*turns)))
    assert "said" in text and "secret" not in text and "think" not in text
    kept = Prompt.make(
        (
            Message(role="user", content="a"),
            Message(role="assistant", content="said", reasoning="secret"),
            Message(role="user", content="b"),
        )
    )
    assert tokenizer.decode(chat.prompt_ids(tokenizer, kept)) == text


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"reasoning": "Hm, rain."}, "<think>\nHm, rain.\n</think>\n\nSo.<|im_end|>"),
        (
            {"tool_calls": (CALL,)},
            'So.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        ),
    ],
)
def test_imported_reasoning_and_calls_are_scored_as_the_template_writes_them(
    fields: Any, written: str
) -> None:
    tokenizer = TOKENIZERS["reasoning"]
    ids = _scored("reasoning", Prompt.from_text("Why?"), _answer("So.", **fields))
    assert ids is not None
    assert tokenizer.decode(ids) == written.removesuffix("<|im_end|>") + "<|im_end|>"
    tag = "<think>" if "reasoning" in fields else "<tool_call>"
    assert ids.count(tokenizer.convert_tokens_to_ids(tag)) == 1
    assert ids.count(chat.stop_token_id(tokenizer)) == 1 and ids[-1] == chat.stop_token_id(
        tokenizer
    )


@pytest.mark.parametrize(
    ("name", "prompt", "fields"),
    [
        # The template writes nothing of it, or begins the answer otherwise than the prompt ends.
        ("chatml", _turns(("user", "?")), {"reasoning": "Hm."}),
        ("chatml", _turns(("user", "?")), {"tool_calls": (CALL,)}),
        ("opened", _turns(("user", "?")), {"tool_calls": (CALL,)}),
        ("opened", _turns(("user", "?")), {"reasoning": "Hm <|im_end|>"}),
        # What the template wrote could not be told from what the model wrote.
        ("reasoning", _turns(("user", "?")), {"reasoning": "Hm <|im_end|>"}),
        ("reasoning", _turns(("user", "?"), ("assistant", "So")), {"reasoning": "Hm."}),
    ],
)
def test_reasoning_and_calls_that_cannot_be_written_are_no_text(
    name: str, prompt: Prompt, fields: Any
) -> None:
    assert _scored(name, prompt, _answer("So.", **fields)) is None


ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def _behind(tokenizer: Any, asked: Prompt, text: str) -> list[int]:
    """The ids of an answer as the template writes prompt and answer in one text."""
    turns = [{"role": "user", "content": asked.text}, {"role": "assistant", "content": text}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    return list(whole[len(chat.prompt_ids(tokenizer, asked)) :])


def test_a_tokenizer_that_begins_texts_with_a_blank_does_not_begin_answers_with_one() -> None:
    tokenizer = made.mistral()
    tokenizer.chat_template = ZEPHYR
    asked = Prompt.from_text("Why?")
    stop = chat.stop_token_id(tokenizer)
    ids = chat.completion_ids(
        tokenizer, asked, _answer("the tea"), tokenizer_hash="", stop_token_id=stop
    )
    assert ids is not None
    assert ids == _behind(tokenizer, asked, "the tea")[: len(ids)]
    alone = tokenizer("the tea", add_special_tokens=False)["input_ids"]
    assert ids[:-1] != alone, "by itself the text begins with a blank"
    assert tokenizer.decode(ids[:-1]) == "the tea"


@pytest.mark.parametrize("template", [ZEPHYR, made.MISTRAL])
def test_an_answer_that_speaks_of_a_special_token_begins_like_any_other(template: str) -> None:
    tokenizer = made.mistral()
    tokenizer.chat_template = template
    asked = Prompt.from_text("Why?")
    stop = chat.stop_token_id(tokenizer)

    def scored(text: str) -> list[int]:
        found = chat.completion_ids(
            tokenizer, asked, _answer(text), tokenizer_hash="", stop_token_id=stop
        )
        assert found is not None
        return found[:-1]

    text = "the tea <s>and milk</s>"
    plain = scored("the tea ")
    assert plain == _behind(tokenizer, asked, "the tea ")[: len(plain)]
    assert scored(text)[: len(plain) - 1] == plain[:-1]
    assert not set(tokenizer.all_special_ids) & set(scored(text))
    assert tokenizer.decode(scored(text)).strip() == text


def test_reasoning_tags_that_are_special_tokens_stay_tokens_in_a_text() -> None:
    tokenizer = made.reasoning()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    stop = chat.stop_token_id(tokenizer)
    asked = Prompt.from_text("Why?")

    def scored(text: str) -> list[int]:
        found = chat.completion_ids(
            tokenizer, asked, _answer(text), tokenizer_hash="", stop_token_id=stop
        )
        assert found is not None
        return found

    tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    kept = scored("<think>\nHm.\n</think>\n\nSo.")
    assert [kept.count(tag) for tag in tags] == [1, 1]
    # Elsewhere they are what somebody says, and no other special token comes in with them.
    for text in ("Write <think> first.", "<think>\n<|im_end|>\n</think>\n\nSo."):
        assert not {*tags, stop} & set(scored(text)[:-1])
