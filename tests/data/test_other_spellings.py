"""Messages, columns and numbers as other services and tools spell them."""

import json
from typing import Any

import pytest

from prefine.data import entries, judged
from prefine.data.import_report import ImportReport
from prefine.data.layouts.protocol import SourceRow
from prefine.data.sources import shaped
from prefine.errors import DataError

QUESTION = "Name a colour."
PAIR = {"prompt": QUESTION, "chosen": "Blue.", "rejected": "Seven."}


def read(row: dict[str, Any]) -> Any:
    return shaped([SourceRow("r.jsonl, line 1", row)])


def pair_of(**changes: Any) -> Any:
    (pair,) = entries.pairs(read(PAIR | changes))
    return pair


@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": "user", "parts": [{"text": QUESTION}]}],  # Gemini
        [{"role": "User", "message": QUESTION}],  # Cohere
        [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],  # OpenAI
        json.dumps(json.dumps([{"role": "user", "content": QUESTION}])),
    ],
)
def test_messages_of_other_services(prompt: Any) -> None:
    pair = pair_of(prompt=prompt)
    assert [(one.role, one.content) for one in pair.prompt.messages] == [("user", QUESTION)]


@pytest.mark.parametrize("role", ["bot", "Chatbot", "CHATBOT", "bard", "bing"])
def test_roles_of_other_services(role: str) -> None:
    turns = [("user", "hi"), (role, "hello"), ("user", QUESTION)]
    pair = pair_of(prompt=[{"role": said, "content": text} for said, text in turns])
    assert [one.role for one in pair.prompt.messages] == ["user", "assistant", "user"]


def test_python_text_of_messages_with_other_keys_first() -> None:
    written = str([{"id": 3, "role": "user", "content": QUESTION}])
    with pytest.raises(DataError, match="line 1: the cell prompt holds messages as Python prints"):
        pair_of(prompt=written)


@pytest.mark.parametrize("name", ["system_message", "system_instruction"])
def test_system_turns_under_other_names(name: str) -> None:
    roles = [message.role for message in pair_of(**{name: "Be brief."}).prompt.messages]
    assert roles == ["system", "user"]


@pytest.mark.parametrize("name", ["image_url", "image_path", "Images", "video_file", "photo"])
def test_pictures_under_other_names_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"line 1: {name} holds 'a.png'; images"):
        pair_of(**{name: "a.png"})


@pytest.mark.parametrize("value", ["NaN", "None", "null", "n/a", "", None])
@pytest.mark.parametrize("name", ["weight", "score_gap", "p_chosen"])
def test_words_for_a_missing_number(name: str, value: Any) -> None:
    pair = pair_of(**{name: value})
    assert (pair.weight, pair.score_gap, pair.p_chosen) == (1.0, None, None)


def test_a_word_for_one_missing_score() -> None:
    report = ImportReport()
    (pair,) = entries.pairs(read(PAIR | {"score_chosen": "NaN", "score_rejected": "3"}), report)
    assert pair.score_gap is None
    assert report.remarked == {"without a score_gap: one of two scores is missing": 1}


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_null_answer_of_a_pair_is_counted(side: str) -> None:
    report = ImportReport()
    rows = [SourceRow("r, row 0", PAIR | {side: None}), SourceRow("r, row 1", PAIR)]
    assert len(list(entries.pairs(shaped(rows), report))) == 1
    assert report.dropped == {"empty answer": 1}


def test_scores_and_ranks_of_lists_as_texts() -> None:
    answers = [{"text": "a", "score": "1.5"}, {"text": "b", "score": "3"}]
    (found,) = judged.lists(read({"prompt": QUESTION, "completions": answers}))
    assert ([one.text for one in found.completions], found.scores) == (["b", "a"], (3.0, 1.5))
    answers = [{"text": "a", "rank": "2"}, {"text": "b", "rank": 1.0}]
    (found,) = judged.lists(read({"prompt": QUESTION, "completions": answers}))
    assert ([one.text for one in found.completions], found.ranks) == (["b", "a"], (1, 2))


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("eos_token", "stop"),
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("SAFETY", "content_filter"),
    ],
)
def test_ends_of_answers_in_the_words_of_servers(word: str, ours: str) -> None:
    answers = [{"text": "a", "finish_reason": word}]
    ((_, (answer,)),) = entries.completions(read({"prompt": QUESTION, "completions": answers}))
    assert answer.finish_reason == ours


def test_an_answer_that_broke_off_is_counted() -> None:
    report = ImportReport()
    answers = [{"text": "a", "finish_reason": "error"}, {"text": "b", "finish_reason": "stop"}]
    row = {"prompt": QUESTION, "completions": answers}
    ((_, (answer,)),) = entries.completions(read(row), report)
    assert answer.text == "b"
    assert report.dropped == {"answer broke off": 1}
