import json
import re

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefine.playground.build import MODEL_DIR, build
from prefine.playground.pretraining import MAX_NEW_TOKENS, conversation, generate
from prefine.playground.vocabulary import WORD_CLASS
from prefine.playground.world import draw_prompts, gold

GOLD_BAND = (0.45, 0.6)
"""The mean gold of samples that the embedded model is built for; small samples get a little
more room.
"""


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def test_the_folder_is_small_and_its_weights_are_bfloat16():
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 4e6
    with safe_open(MODEL_DIR / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.offset_keys()} == {"BF16"}


def test_the_folder_says_how_it_was_made():
    made = json.loads((MODEL_DIR / "build.json").read_text(encoding="utf-8"))
    assert (
        made["command"]
        == f"python -m prefine.playground.build --seed {made['seed']} --steps {made['steps']}"
    )
    measured = made["measured_on_test_prompts"]
    assert GOLD_BAND[0] <= measured["gold_of_samples"] <= GOLD_BAND[1]
    assert measured["gold_sd_within_prompt"] >= 0.12
    assert measured["finished_share"] >= 0.99


def test_the_context_is_long_enough_for_a_judge(model, tokenizer):
    assert model.config.max_position_embeddings >= 2048
    assert tokenizer.model_max_length == model.config.max_position_embeddings


@pytest.mark.parametrize(
    "text",
    [
        "the kettle is bright .",
        "Grüße, 世界! こんにちは",
        "👩‍👩‍👧 \U0001f600",
        "a  b\n\n\tc ",
        "\x00\x7f‮",
        "x=1;# not words",
    ],
)
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_chat_template_takes_roles_turns_and_a_generation_prompt(tokenizer):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|system|>be kind<|end|><|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>"
    )
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_the_chat_template_marks_what_the_assistant_says(tokenizer):
    messages = [*conversation("a b c"), {"role": "assistant", "content": "d e"}]
    encoded = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [
        i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask
    ]
    assert tokenizer.decode(said) == "d e<|end|>"


def test_greedy_answers_are_finished_and_every_sentence_is_one(model, tokenizer):
    # Not `form == 1`: the most likely noun is often the same one again, so greedy answers repeat
    # themselves.
    prompts = draw_prompts(20, split="test", seed=1)
    texts = [
        text
        for answer in generate(model, tokenizer, prompts, samples=1, temperature=0.0)
        for text, _ in answer
    ]
    assert all(text.endswith(" .") for text in texts)
    shapes = [
        "".join(WORD_CLASS.get(word, "?") for word in sentence.split())
        for text in texts
        for sentence in text.removesuffix(".").split(".")
    ]
    assert sum(
        re.fullmatch(r"DA?N(?:VDA?N|IA)", shape) is not None for shape in shapes
    ) >= 0.95 * len(shapes)


def test_samples_are_half_good_diverse_and_finished(model, tokenizer):
    torch.manual_seed(0)
    prompts = draw_prompts(40, split="test", seed=2)
    answers = generate(model, tokenizer, prompts, samples=4, temperature=1.0)
    golds = [
        gold(prompt, text)
        for prompt, texts in zip(prompts, answers, strict=True)
        for text, _ in texts
    ]
    assert GOLD_BAND[0] - 0.03 <= sum(golds) / len(golds) <= GOLD_BAND[1] + 0.03
    assert all(len(set(texts)) >= 3 for texts in answers)
    assert sum(length < MAX_NEW_TOKENS for texts in answers for _, length in texts) >= 158


def test_the_same_seed_builds_the_same_bytes_in_an_ordinary_folder(tmp_path):
    build(tmp_path / "a", seed=3, steps=2, measured_prompts=2)
    build(tmp_path / "b", seed=3, steps=2, measured_prompts=2)
    names = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in (tmp_path / "a").iterdir()} == names | {"build.json"}
    for name in (*names, "build.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert "<|assistant|>" in AutoTokenizer.from_pretrained(tmp_path / "a").chat_template
    AutoModelForCausalLM.from_pretrained(tmp_path / "a")
