"""Records: round trips through JSON, ids from content, and what may not be stored."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefine.records import (
    SCHEMA_VERSION,
    Comparison,
    Completion,
    Judgment,
    Manifest,
    Message,
    MetricValue,
    PreferencePair,
    Prompt,
    Ranking,
    Usage,
    canonical_json,
    content_hash,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
METADATA = st.dictionaries(TEXT, JSON, max_size=3)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=TEXT,
    reasoning=st.none() | TEXT,
    tool_calls=st.none() | st.lists(METADATA, min_size=1, max_size=2).map(tuple),
)
PROMPTS = st.builds(
    Prompt.make,
    st.lists(MESSAGES, min_size=1, max_size=3).map(tuple),
    tools=st.none() | st.lists(METADATA, max_size=2).map(tuple),
    chat_template_kwargs=METADATA,
    source=TEXT,
    metadata=METADATA,
)
COMPLETIONS = st.builds(
    Completion,
    id=TEXT,
    prompt_id=TEXT,
    sample_index=st.integers(0, 99),
    message=MESSAGES,
    token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple),
    tokenizer_hash=st.none() | TEXT,
    sampled_logp=st.none() | NUMBER,
    sampling=METADATA,
    metadata=METADATA,
    finish_reason=st.sampled_from(["stop", "length", "content_filter", "unknown"]),
)


@given(PROMPTS)
def test_prompts_round_trip(prompt: Prompt) -> None:
    assert Prompt.model_validate_json(prompt.model_dump_json()) == prompt


@given(COMPLETIONS)
def test_completions_round_trip(completion: Completion) -> None:
    assert Completion.model_validate_json(completion.model_dump_json()) == completion


@given(st.floats(0, 1) | st.none())
def test_judgments_round_trip(p_first: float | None) -> None:
    comparison = Comparison(prompt_id="p", first="a", second="b")
    error = "no verdict" if p_first is None else None
    judgment = Judgment(comparison=comparison, judge="j", p_first=p_first, error=error)
    assert Judgment.model_validate_json(judgment.model_dump_json()) == judgment


@given(PROMPTS, TEXT, METADATA)
def test_a_prompts_id_is_of_its_content(
    prompt: Prompt, source: str, metadata: dict[str, Any]
) -> None:
    again = Prompt.make(
        prompt.messages,
        tools=prompt.tools,
        chat_template_kwargs=prompt.chat_template_kwargs,
        source=source,
        metadata=metadata,
    )
    assert again.id == prompt.id
    longer = (*prompt.messages, Message(role="user", content="more"))
    assert (
        Prompt.make(longer, tools=prompt.tools, chat_template_kwargs=prompt.chat_template_kwargs).id
        != prompt.id
    )


@given(JSON)
def test_canonical_json_is_json(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_ids_do_not_move_between_versions() -> None:
    # A changed hash would orphan every journal on disk.
    assert content_hash("a", 1, None) == content_hash("a", 1, None)
    assert content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    assert content_hash("ab") != content_hash("a", "b")
    assert Prompt.from_text("hello").id == "d6b699b334c13af9"


def test_texts_that_differ_in_normal_form_only_are_two_prompts() -> None:
    assert Prompt.from_text("caf\u00e9").id != Prompt.from_text("cafe\u0301").id
    assert Prompt.from_text("a").id != Prompt.from_text("a ").id


def test_a_prompts_text_is_the_last_user_turn() -> None:
    turns = [
        ("system", "s"),
        ("user", "first"),
        ("assistant", "a"),
        ("user", "last"),
        ("tool", "t"),
    ]
    prompt = Prompt.make(tuple(Message.model_validate({"role": r, "content": c}) for r, c in turns))
    assert prompt.text == "last"


def test_swapping_twice_is_nothing() -> None:
    comparison = Comparison(prompt_id="p", first="a", second="b")
    assert comparison.swapped() == Comparison(prompt_id="p", first="b", second="a")
    assert comparison.swapped().swapped() == comparison


def completion(text: str, **values: Any) -> Completion:
    message = Message(role="assistant", content=text)
    return Completion(id=text, prompt_id="p", sample_index=0, message=message, **values)


def pair(**values: Any) -> PreferencePair:
    return PreferencePair(
        **{
            "prompt": Prompt.from_text("q"),
            "chosen": completion("a"),
            "rejected": completion("b"),
            **values,
        }
    )


@pytest.mark.parametrize("p_chosen", [0.5, 0.4, 1.1, -1, math.nan, math.inf])
def test_a_tie_cannot_be_a_pair(p_chosen: float) -> None:
    with pytest.raises(ValidationError):
        pair(p_chosen=p_chosen)


@pytest.mark.parametrize(
    "values",
    [
        {"weight": 0},
        {"weight": -1},
        {"weight": math.inf},
        {"weight": math.nan},
        {"score_gap": math.nan},
        {"rejected": completion("a")},
        {"label": 1},
    ],
)
def test_pairs_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        pair(**values)
    assert pair().weight == 1


@pytest.mark.parametrize(
    "values", [{}, {"p_first": 0.5, "error": "x"}, {"p_first": 1.1}, {"p_first": math.nan}]
)
def test_a_judgment_has_a_verdict_or_a_reason(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Judgment(comparison=Comparison(prompt_id="p", first="a", second="b"), judge="j", **values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_is_a_number(value: float) -> None:
    with pytest.raises(ValidationError, match="not reported"):
        MetricValue(name="m", value=value, n=1)


def test_records_are_frozen_and_know_their_fields() -> None:
    ranking = Ranking(prompt_id="p", strategy="s", completions=("a", "b"))
    with pytest.raises(ValidationError, match="frozen"):
        ranking.champion = "a"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Ranking.model_validate(
            {"prompt_id": "p", "strategy": "s", "completions": [], "winner": "a"}
        )
    assert ranking.champion is ranking.worst is ranking.order is None


def test_usage_adds_up() -> None:
    assert Usage(calls=1, cost=0.5) + Usage(calls=2, prompt_tokens=3) == Usage(
        calls=3, prompt_tokens=3, cost=0.5
    )


def test_a_manifest_says_its_version() -> None:
    assert Manifest(stage="rank", config={}, code_version="1").schema_version == SCHEMA_VERSION == 1
