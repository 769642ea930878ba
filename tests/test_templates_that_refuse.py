"""Chat templates that take no system turn, or open no answer: found before anything is spent."""

import json
from pathlib import Path
from typing import Any

import pytest

import openai_server as server
from command import prefine
from openai_server import OpenAIServer
from prefine import chat
from prefine.models.hf.loading import load_tokenizer
from prefine.records import Message, Prompt
from run_place import CONFIG, GONE, OK, PAIRS, Place, good_answers, good_pairs, jsonl

# Gemma's: no system turn, and user and assistant in turns.
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no turns') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_HEADER = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
SYSTEM = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why tea?"}]
REASON = "1 × refused by the chat template"


def with_template(place: Place, template: str) -> None:
    (place.root / "own.jinja").write_text(template)
    place.change({"policy.chat_template": "own.jinja"})


def spoilt(rows: list[Any]) -> bytes:
    rows[3]["prompt"] = SYSTEM
    return jsonl(rows)


@pytest.mark.parametrize("command", [("config", "check", "run.yaml"), ("run", "run.yaml")])
def test_a_row_that_the_template_refuses_is_set_aside_before_the_judge_is_asked(
    place: Place, command: tuple[str, ...]
) -> None:
    place.put("answers.jsonl", spoilt(good_answers()))
    with_template(place, GEMMA)
    with OpenAIServer(server.label_judge(0.7)) as at:
        model = {"name": "openai", "model": "m", "base_url": at.url, "max_retries": 0}
        place.change({"rank.judge": {"name": "pairwise", "model": model}})
        done = prefine(*command)
        assert done.code == OK, done.err
        asked = json.dumps([request.body for request in at.requests])
    assert f"{REASON} (answers.jsonl, line 4)" in done.err + done.out
    assert "Why tea?" not in asked
    strict = prefine("run", "run.yaml", "--strict", "--run-dir", "other")
    for part in ("answers.jsonl, line 4", "System role not supported", "system: merge"):
        assert part in strict.err


def test_pairs_and_prompts_that_the_template_refuses(place: Place) -> None:
    with_template(place, GEMMA)
    place.put("pairs.jsonl", spoilt(good_pairs()))
    place.change(PAIRS)
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    assert f"{REASON} (pairs.jsonl, line 4)" in done.err
    place.put("prompts.jsonl", spoilt([{"prompt": f"question {n}"} for n in range(4)]))
    place.change(
        {
            "run_dir": "sampled",
            "pairs": GONE,
            "prompts": {"name": "file", "path": "prompts.jsonl"},
            "sample": {"completions_per_prompt": 2, "max_new_tokens": 2},
            "rank": {"judge": {"name": "recorded"}},
        }
    )
    done = prefine("sample", "run.yaml")
    assert done.code == OK, done.err
    manifest = Path("sampled/manifest.json").read_text()
    assert '"refused by the chat template": 1' in manifest


@pytest.mark.parametrize("kind", ["lists", "labels"])
@pytest.mark.parametrize("command", [("config", "check", "run.yaml"), ("run", "run.yaml")])
def test_lists_and_labels_that_the_template_refuses(
    place: Place, kind: str, command: tuple[str, ...]
) -> None:
    with_template(place, GEMMA)
    judgments = ("score", [2, 1]) if kind == "lists" else ("label", [True, False])
    rows: list[Any] = [
        {
            "prompt": f"question {n}",
            "completions": [
                {"text": text, judgments[0]: value}
                for text, value in zip((f"good {n}", f"bad {n}"), judgments[1], strict=True)
            ],
        }
        for n in range(5)
    ]
    place.put(f"{kind}.jsonl", spoilt(rows))
    loss = {"lists": "list_mle", "labels": "kto"}[kind]
    place.change({**PAIRS, "pairs": GONE, kind: {"name": "file", "path": f"{kind}.jsonl"}})
    place.change({"train.loss": {"name": loss}, "train.regularizer": None})
    done = prefine(*command)
    assert done.code == OK, done.err
    # Of a row with two labels, two items are set aside.
    count = 1 if kind == "lists" else 2
    assert f"{count} × refused by the chat template ({kind}.jsonl, line 4" in done.err + done.out


def test_by_option_the_system_turn_is_the_beginning_of_the_first_user_turn(place: Place) -> None:
    with_template(place, GEMMA)
    place.put("pairs.jsonl", spoilt(good_pairs()))
    place.change({**PAIRS, "policy.system": "merge"})
    done = prefine("run", "run.yaml")
    assert done.code == OK, done.err
    assert "refused" not in done.err
    trained = load_tokenizer("run/model")
    prompt = Prompt.make(tuple(Message(**turn) for turn in SYSTEM))
    text = trained.decode(chat.prompt_ids(trained, prompt))
    assert text == "<user>Be kind.\n\nWhy tea?" + trained.eos_token + "<assistant>"


@pytest.mark.parametrize(
    ("turns", "written"),
    [
        ([("system", "s"), ("user", "q")], "<user>s\n\nq"),
        ([("system", ""), ("user", "q")], "<user>q"),
        ([("user", "q")], "<user>q"),
        ([("system", "s")], "<user>s"),
        (
            [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")],
            "<user>s\n\nq{eos}<assistant>a{eos}<user>r",
        ),
    ],
)
def test_merging(place: Place, turns: list[tuple[Any, str]], written: str) -> None:
    tokenizer = load_tokenizer(str(place.root / "model"), GEMMA, merge_system=True)
    prompt = Prompt.make(tuple(Message(role=role, content=text) for role, text in turns))
    eos = tokenizer.eos_token
    found = tokenizer.decode(chat.prompt_ids(tokenizer, prompt))
    assert found == written.replace("{eos}", eos) + eos + "<assistant>"


@pytest.mark.parametrize("entry", ["completions", "pairs"])
def test_a_template_that_opens_no_answer_is_refused_with_the_remedy(
    place: Place, entry: str
) -> None:
    with_template(place, NO_HEADER)
    place.change(PAIRS if entry == "pairs" else {})
    for command in (("config", "check", "run.yaml"), ("run", "run.yaml")):
        refused = prefine(*command)
        assert refused.code == CONFIG, refused.err
        for part in ("ignores add_generation_prompt", "'<assistant>'", "add to the template"):
            assert part in refused.err
    assert not Path("run/manifest.json").exists()
