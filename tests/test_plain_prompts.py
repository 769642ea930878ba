"""Base models without a chat template: prompts are plain texts, with `chat_template: none`."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from command import prefine
from prefine import chat
from prefine.data import entries
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import ConfigError, DataError
from prefine.models.hf.loading import load_tokenizer
from prefine.records import Completion, Message, Prompt
from run_place import CONFIG, DATA, GONE, OK, PAIRS, Place, jsonl

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture
def base(place: Place) -> Place:
    """A place whose model has no chat template."""
    path = place.root / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings))
    (place.root / "model" / "chat_template.jinja").unlink(missing_ok=True)
    return place


def answer(prompt: Prompt, text: str) -> Completion:
    return Completion(
        id=text,
        prompt_id=prompt.id,
        sample_index=0,
        message=Message(role="assistant", content=text),
    )


def scored(tokenizer: Any, prompt: Prompt, text: str) -> list[int]:
    ids = chat.completion_ids(
        tokenizer,
        prompt,
        answer(prompt, text),
        tokenizer_hash="",
        stop_token_id=chat.stop_token_id(tokenizer),
    )
    assert ids is not None
    return ids


def test_prompt_and_answer_are_the_tokens_of_their_texts(base: Place) -> None:
    tokenizer = load_tokenizer(str(base.root / "model"), "none")
    own = AutoTokenizer.from_pretrained(base.root / "model")
    prompt = Prompt.from_text(" The kettle\n is")
    assert chat.prompt_ids(tokenizer, prompt) == own(prompt.text)["input_ids"]
    expected = own(" bright .", add_special_tokens=False)["input_ids"]
    assert scored(tokenizer, prompt, " bright .") == [*expected, own.eos_token_id]
    assert chat.stop_token_id(tokenizer) == own.eos_token_id


@pytest.mark.parametrize(
    "turns",
    [
        [("system", "s"), ("user", "q")],
        [("user", "p"), ("assistant", "o"), ("user", "q")],
    ],
)
def test_conversations_are_no_plain_text(base: Place, turns: list[tuple[Any, str]]) -> None:
    tokenizer = load_tokenizer(str(base.root / "model"), "none")
    prompt = Prompt.make(tuple(Message(role=role, content=text) for role, text in turns))
    with pytest.raises(DataError, match="chat_template: none a prompt is one text"):
        chat.prompt_ids(tokenizer, prompt)


def test_without_the_option_the_error_names_it(base: Place) -> None:
    with pytest.raises(ConfigError, match=r"no chat template.*chat_template.*none for a base"):
        load_tokenizer(str(base.root / "model"))
    assert prefine("run", "run.yaml").code == CONFIG


def test_a_base_model_is_sampled_trained_and_used_again(base: Place) -> None:
    judge = "def longer(prompt, completion):\n    return len(completion.text)\n"
    base.put("longer.py", judge)
    base.change(
        {
            "policy.chat_template": "none",
            "completions": GONE,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": 2, "max_new_tokens": 4},
            "rank.judge": {"name": "longer:longer"},
        }
    )
    done = prefine("sample", "run.yaml")
    assert done.code == OK, done.err
    base.change({"run_dir": "trained", **PAIRS, "prompts": GONE, "sample": GONE})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    (template,) = Path("trained/model").glob("chat_template.jinja")
    assert "chat_template: none" in template.read_text()
    kept = load_tokenizer("trained/model")
    assert chat.prompt_ids(kept, Prompt.from_text("tea")) == kept("tea")["input_ids"]


def test_a_template_in_a_file(base: Place) -> None:
    (base.root / "own.jinja").write_text(TEMPLATE)
    base.change({**PAIRS, "policy.chat_template": "own.jinja"})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    assert (base.root / "run/model/chat_template.jinja").read_text() == TEMPLATE
    base.change({"policy.chat_template": "nowhere.jinja"})
    refused = prefine("run", "run.yaml", "--run-dir", "other")
    assert refused.code == CONFIG
    for part in ("chat_template: nowhere.jinja", "cannot be read", "Jinja"):
        assert part in refused.err


def test_a_conversation_for_a_base_model_is_refused_with_its_row(base: Place) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    base.put("pairs.jsonl", jsonl([{"prompt": turns, "chosen": "a", "rejected": "b"}]))
    base.change({**PAIRS, "policy.chat_template": "none"})
    refused = prefine("run", "run.yaml")
    assert refused.code == DATA
    assert "pairs.jsonl, line 1" in refused.err
    assert "write a system prompt, earlier turns and tools into it" in refused.err


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] Why? [/INST]",
        "<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhy?",
        "<|user|>\nWhy?</s>\n<|assistant|>\n",
        "<｜begin▁of▁sentence｜><｜User｜>Why?<｜Assistant｜>",
    ],
)
def test_a_prompt_in_a_template_is_noticed(text: str) -> None:
    row = SourceRow("f, line 1", {"prompt": text, "chosen": "a", "rejected": "b"})
    report = ImportReport()
    (pair,) = entries.pairs(shaped([row]), report)
    assert pair.prompt.text == text
    assert report.notes() == ("kept: 1 × already in a chat template (f, line 1)",)
    with pytest.raises(DataError, match=r"f, line 1: the prompt begins with .*chat_template: none"):
        list(entries.pairs(shaped([row]), ImportReport(strict=True)))


@pytest.mark.parametrize("text", ["What does <|im_start|>user mean?", "Use [INST] and [/INST]."])
def test_a_prompt_that_speaks_of_a_template_is_not(text: str) -> None:
    report = ImportReport()
    list(entries.prompts(shaped([SourceRow("f", {"prompt": text})]), report))
    assert report.notes() == ()


def test_a_prompt_in_a_template_is_read_as_such(place: Place) -> None:
    folder = str(place.root / "model")
    own, plain = load_tokenizer(folder), load_tokenizer(folder, "none")
    asked = Prompt.from_text("Why?")
    rendered = own.decode(chat.prompt_ids(own, asked))
    again = chat.prompt_ids(plain, Prompt.from_text(rendered))
    assert again == chat.prompt_ids(own, asked)
    assert any(id_ in own.all_special_ids for id_ in again)
