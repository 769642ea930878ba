"""Malformed rows of published layouts, through the real command: a good row, then a spoilt one.

As in `test_malformed_rows.py`: what cannot be read is refused with file, row, field, value and
remedy; what can be read and is worthless is set aside and counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from malformed import check_import
from run_place import DATA, OK, jsonl

ROWS = Path(__file__).parent / "data" / "layout_rows"
Values = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A row of a layout's file, changed; `...` takes a column away."""

    layout: str
    changes: Values
    says: tuple[str, ...]
    code: int = DATA

    @property
    def name(self) -> str:
        what = ", ".join(f"{name} {show(value)}" for name, value in self.changes.items())
        return f"{self.layout}: {what}"


def show(value: Any) -> str:
    return "away" if value is ... else repr(value)[:60]


def refused(layout: str, changes: Values, *says: str) -> Case:
    return Case(layout, changes, ("line 2", *says))


def aside(layout: str, changes: Values, reason: str) -> Case:
    return Case(layout, changes, ("line 2", f"1 × {reason}"), OK)


def user(text: Any) -> Values:
    return {"role": "user", "content": text}


def assistant(text: Any) -> Values:
    return {"role": "assistant", "content": text}


NO_VOTE, EMPTY, TIE = "no preference given", "empty answer", "tie"
PICTURE = [{"type": "image_url", "image_url": {"url": "a.png"}}]
CASES = [
    # --- two answers and a vote
    refused("pku_safe_rlhf", {"better_response_id": 2}, "better_response_id", "'0', '1'", "got 2"),
    refused("pku_safe_rlhf", {"better_response_id": "A"}, "better_response_id", "got 'A'"),
    refused("pku_safe_rlhf", {"better_response_id": 0.5}, "better_response_id", "got 0.5"),
    refused("pku_safe_rlhf", {"better_response_id": [0]}, "better_response_id", "got [0]"),
    refused("pku_safe_rlhf", {"better_response_id": ...}, "no column 'better_response_id'"),
    refused("pku_safe_rlhf", {"response_1": ...}, "no column 'response_1'", "columns"),
    refused("pku_safe_rlhf", {"response_1": ["a"]}, "response_1 must be a text", "['a']"),
    refused("pku_safe_rlhf", {"prompt": ...}, "no column 'prompt'", "pku_safe_rlhf"),
    refused("pku_safe_rlhf", {"prompt": 3}, "prompt", "got 3"),
    refused("pku_safe_rlhf", {"prompt": None}, "prompt", "got None", "remove the row"),
    aside("pku_safe_rlhf", {"better_response_id": None}, NO_VOTE),
    aside("pku_safe_rlhf", {"better_response_id": ""}, NO_VOTE),
    aside("pku_safe_rlhf", {"response_0": None}, EMPTY),
    aside("pku_safe_rlhf", {"response_0": " "}, EMPTY),
    aside("pku_safe_rlhf", {"response_0": 7}, "answer is no text"),
    aside("pku_safe_rlhf", {"response_0": "x", "response_1": "x"}, "identical answers"),
    aside("pku_safe_rlhf", {"prompt": ""}, "empty prompt"),
    refused("shp", {"labels": -1}, "labels must be one of '1', '0'", "got -1"),
    refused("shp", {"labels": "A"}, "labels", "got 'A'"),
    refused("shp", {"human_ref_A": ...}, "no column 'human_ref_A'"),
    refused("shp", {"history": {"post": "x"}}, "prompt", "no role", "post"),
    refused("shp", {"history": ...}, "no column 'history'"),
    aside("shp", {"labels": None}, NO_VOTE),
    aside("shp", {"human_ref_B": None}, EMPTY),
    refused("webgpt", {"score_0": "high"}, "score_0 must be a finite number", "'high'"),
    refused("webgpt", {"score_1": True}, "score_1 must be a finite number", "True"),
    refused("webgpt", {"score_1": ...}, "no column 'score_1'"),
    refused("webgpt", {"question": {"id": "7"}}, "prompt", "got None"),
    refused("webgpt", {"question": ["q"]}, "prompt", "['q']"),
    refused("webgpt", {"answer_0": {"text": "a"}}, "answer_0 must be a text", "{'text': 'a'}"),
    aside("webgpt", {"score_0": None}, NO_VOTE),
    aside("webgpt", {"score_0": 0.0, "score_1": 0.0}, TIE),
    aside("webgpt", {"answer_1": ""}, EMPTY),
    refused("two_outputs", {"preference": 3}, "preference must be between 1", "got 3"),
    refused("two_outputs", {"preference": -1}, "preference must be between 1", "got -1"),
    refused("two_outputs", {"preference": "first"}, "preference", "'first'"),
    refused("two_outputs", {"preference": ...}, "no column 'preference'"),
    refused("two_outputs", {"output_2": ...}, "no column 'output_2'"),
    refused("two_outputs", {"output_2": ["a"]}, "output_2 must be a text"),
    aside("two_outputs", {"preference": None}, NO_VOTE),
    aside("two_outputs", {"preference": 1.5}, TIE),
    aside("two_outputs", {"output_2": True}, "answer is no text"),
    refused("llmbar", {"label": 0.5}, "label must be between 1", "got 0.5"),
    refused("llmbar", {"input": ...}, "no column 'instruction'", "two_outputs"),
    aside("llmbar", {"label": None}, NO_VOTE),
    refused("pandalm", {"annotator2": 3}, "annotator2 must be one of '1', '2', '0'", "got 3"),
    refused("pandalm", {"annotator1": "yes"}, "annotator1", "got 'yes'"),
    refused("pandalm", {"response1": ...}, "no column 'response1'"),
    aside("pandalm", {"annotator1": 1, "annotator2": 2, "annotator3": None}, TIE),
    aside("pandalm", {"annotator1": None, "annotator2": None, "annotator3": None}, NO_VOTE),
    aside("pandalm", {"response2": False}, "answer is no text"),
    # --- arenas
    refused("arena_votes", {"response_a": '["x", "y", "z"]'}, "2 turns in prompt", "3 in response"),
    refused("arena_votes", {"response_b": {"a": 1}}, "response_b must be a list", "{'a': 1}"),
    refused("arena_votes", {"prompt": "[1, 2]"}, "prompt must be a list of texts", "[1, 2]"),
    refused("arena_votes", {"prompt": ...}, "no column 'prompt'"),
    refused("arena_votes", {"winner_model_b": ...}, "no column 'winner_model_b'"),
    aside("arena_votes", {"winner_model_a": None}, NO_VOTE),
    aside("arena_votes", {"winner_model_a": "perhaps"}, NO_VOTE),
    aside("arena_votes", {"winner_model_a": 1, "winner_model_b": 1}, TIE),
    aside("arena_votes", {"response_a": '["Hello", null]'}, EMPTY),
    refused("arena_conversations", {"winner": "model_c"}, "winner must be one of", "'model_c'"),
    refused("arena_conversations", {"winner": 1}, "winner must be one of", "got 1"),
    refused("arena_conversations", {"conversation_a": "Hi"}, "conversation_a", "list of messages"),
    refused("arena_conversations", {"conversation_b": ...}, "no column 'conversation_b'"),
    refused("arena_conversations", {"turn": "two"}, "turn must be a finite number", "'two'"),
    refused(
        "arena_conversations",
        {
            "conversation_a": [user("q"), assistant(PICTURE)],
            "conversation_b": [user("q"), assistant("b")],
        },
        "images and files cannot be read",
    ),
    aside("arena_conversations", {"winner": None}, NO_VOTE),
    aside("arena_conversations", {"winner": "both_bad"}, TIE),
    aside(
        "arena_conversations",
        {"conversation_a": [user("other"), assistant("x")]},
        "cannot be split at one answer",
    ),
    # --- other trainers
    refused("openai_preference", {"input": "q"}, "input must be an object with messages", "'q'"),
    refused("openai_preference", {"input": {"tools": []}}, "input must be an object", "tools"),
    refused("openai_preference", {"input": {"messages": []}}, "list of messages", "[]"),
    refused("openai_preference", {"preferred_output": ...}, "no column 'preferred_output'"),
    refused("openai_preference", {"preferred_output": 3}, "chosen", "got 3"),
    refused("openai_preference", {"non_preferred_output": [user("b")]}, "rejected", "'user'"),
    refused(
        "openai_preference",
        {"input": {"messages": [user(PICTURE)]}},
        "parts of type text",
        "images",
    ),
    refused("openai_preference", {"input": {"messages": [user("q")], "tools": "hammer"}}, "tools"),
    aside("openai_preference", {"preferred_output": [assistant("")]}, EMPTY),
    aside("openai_preference", {"preferred_output": [assistant(None)]}, EMPTY),
    refused("llama_factory", {"output": ["a"]}, "list of two answers", "['a']"),
    refused("llama_factory", {"output": "a"}, "list of two answers", "'a'"),
    refused("llama_factory", {"output": ["a", "b", "c"]}, "list of two answers"),
    refused("llama_factory", {"history": [["a"]]}, "history must be earlier turns", "[['a']]"),
    refused("llama_factory", {"history": "a"}, "history must be earlier turns", "'a'"),
    refused("llama_factory", {"instruction": None}, "instruction", "None"),
    refused("llama_factory", {"images": ["a.png"]}, "images holds ['a.png']", "remove the row"),
    aside("llama_factory", {"output": ["", "b"]}, EMPTY),
    aside("llama_factory", {"output": ["b", "b"]}, "identical answers"),
    refused("llama_factory_alpaca", {"rejected": ...}, "no column 'rejected'"),
    refused("llama_factory_alpaca", {"history": [[1, 2]]}, "history must be earlier turns"),
    refused("sharegpt_preference", {"conversations": []}, "list of messages", "[]"),
    refused("sharegpt_preference", {"conversations": 3}, "prompt", "got 3"),
    refused(
        "sharegpt_preference",
        {"conversations": [{"from": "narrator", "value": "q"}]},
        "role",
        "'narrator'",
    ),
    refused("sharegpt_preference", {"chosen": {"from": "human", "value": "a"}}, "chosen", "'user'"),
    refused("sharegpt_preference", {"chosen": {"value": "a"}}, "chosen", "no role"),
    aside("sharegpt_preference", {"rejected": {"from": "gpt", "value": ""}}, EMPTY),
    refused("nemo", {"chosen_response": ...}, "no column 'chosen_response'"),
    refused("nemo", {"chosen_response": 3}, "chosen", "got 3"),
    refused("nemo", {"chosen_reward": "good"}, "chosen_reward", "'good'"),
    refused("nemo", {"chosen_reward": ...}, "no column 'chosen_reward'", "'rejected_reward'"),
    aside("nemo", {"chosen_reward": 2.0}, TIE),
    aside("nemo", {"chosen_reward": 0.5}, "scores say the opposite"),
    aside("nemo", {"chosen_reward": None}, "without a score_gap"),
    aside("nemo", {"rejected_response": "\n<extra_id_1>"}, EMPTY),
    refused("nemo_ranked", {"completions": "a"}, "completions must be a list", "'a'"),
    refused("nemo_ranked", {"completions": [{"rank": 0}]}, "completion 0", "with completion"),
    refused(
        "nemo_ranked",
        {"completions": [{"rank": "first", "completion": [assistant("a")]}] * 2},
        "rank must be a finite number",
        "'first'",
    ),
    refused(
        "nemo_ranked",
        {"completions": [{"rank": n, "completion": [assistant("a")]} for n in range(3)]},
        "no column 'chosen'",
        "--as completions",
    ),
    aside(
        "nemo_ranked",
        {"completions": [{"rank": 1, "completion": [assistant(t)]} for t in "ab"]},
        TIE,
    ),
    aside(
        "nemo_ranked",
        {"completions": [{"rank": r, "completion": [assistant("a")]} for r in (0, None)]},
        NO_VOTE,
    ),
    refused("orca", {"question": ...}, "no column 'question'", "orca"),
    aside("orca", {"chosen": None}, EMPTY),
    refused("orca", {"question": 1}, "prompt", "got 1"),
    aside("orca", {"rejected": ""}, EMPTY),
    refused("orca_argilla", {"rating": ["x", 1.0]}, "rating must be a finite number", "'x'"),
    aside("orca_argilla", {"status": "tie"}, TIE),
    aside("orca_argilla", {"rating": [4, 4]}, TIE),
    refused("openrlhf", {"context_messages": 3}, "prompt", "got 3"),
    refused("openrlhf", {"context_messages": ...}, "no column 'context_messages'"),
    refused("openrlhf", {"context_messages": [assistant("a")]}, "end the prompt with a user turn"),
    # --- several answers with grades
    refused("distilabel", {"ratings": [1.0]}, "2 generations, but 1 ratings"),
    refused("distilabel", {"ratings": ["good", 1.0]}, "must be a finite number", "'good'"),
    refused("distilabel", {"generations": "a"}, "generations must be a list", "'a'"),
    refused("distilabel", {"generations": [1, 2]}, "completion 0", "got 1"),
    refused("distilabel", {"instruction": ...}, "no column 'instruction'", "distilabel"),
    aside("distilabel", {"generations": ["a", None]}, EMPTY),
    aside("distilabel", {"generations": ["", None]}, "no answer left"),
    refused("nectar", {"answers": None}, "answers must be a list", "None"),
    refused("nectar", {"answers": [{"model": "m"}]}, "completion 0", "with answer"),
    refused("nectar", {"answers": [{"answer": "a", "rank": "1st"}]}, "rank", "'1st'"),
    aside("nectar", {"answers": [{"answer": "a", "rank": 1.0}, {"answer": ""}]}, EMPTY),
    refused("stack_exchange", {"answers": ["a"]}, "completion 0", "with text", "'a'"),
    refused("stack_exchange", {"question": None}, "question is missing"),
    aside("stack_exchange", {"answers": [{"text": "", "pm_score": 1}]}, "no answer left"),
    # --- conversations
    refused("sharegpt", {"conversations": "Hi"}, "conversations", "list of messages", "'Hi'"),
    refused("sharegpt", {"conversations": []}, "list of messages", "[]"),
    refused("sharegpt", {"conversations": None}, "list of messages", "None"),
    refused("sharegpt", {"conversations": [{"value": "q"}]}, "no role", "value"),
    refused("sharegpt", {"conversations": [["human", "q"]]}, "list of messages"),
    refused("sharegpt", {"audios": ["a.wav"]}, "audios holds ['a.wav']"),
    aside(
        "sharegpt",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]},
        EMPTY,
    ),
    aside(
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": ""},
                {"from": "gpt", "value": "x"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        "empty turn",
    ),
    refused("capybara", {"conversation": [{"input": "q", "output": 3}]}, "content", "got 3"),
    aside("capybara", {"conversation": [{"input": "q", "output": ""}]}, EMPTY),
    refused("capybara_dpo", {"prompt": "another"}, "'another'", "not a user turn"),
    refused("open_orca", {"response": 3}, "expected a text", "got 3"),
    aside("open_orca", {"response": None}, EMPTY),
    aside("sharegpt", {"conversations": [{"from": "human", "value": "q"}]}, "no answer left"),
    refused("samples", {"images": ["a.png"]}, "images holds ['a.png']"),
    refused("samples", {"history": "we spoke"}, "history must be earlier turns", "'we spoke'"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_layouts(case: Case, here: Path) -> None:
    published = json.loads((ROWS / f"{case.layout}.json").read_text())
    good, other, _ = published["rows"]
    spoilt = {k: v for k, v in (other | case.changes).items() if v is not ...}
    (here / "rows.jsonl").write_bytes(jsonl([good, spoilt]))
    check_import(("rows.jsonl", "--as", published["as"]), case.says, case.code, line=2)


def test_every_row_of_the_table_is_another_one() -> None:
    assert len({(case.layout, str(case.changes)) for case in CASES}) == len(CASES) >= 130
