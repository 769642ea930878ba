"""Answers in the manners of many servers: texts in parts, thoughts, ends, usage, probabilities."""

import json
import math
from typing import Any

import pytest

from prefine.models.openai.answers import Answer, Malformed, parsed, read_answer
from prefine.models.openai.usage import TokenPrices, token_counts


def answer(message: dict[str, Any], **choice: Any) -> Answer:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    return read_answer(parsed(json.dumps(body).encode()))


def chunks(*events: Any) -> bytes:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "yes"}, "yes", None),
        ({"content": [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]}, "yes", None),
        ({"content": [{"type": "output_text", "text": "yes"}]}, "yes", None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "yes"},
                ]
            },
            "yes",
            "hm",
        ),
        ({"content": [{"type": "reasoning", "text": "hm"}, "yes"]}, "yes", "hm"),
        ({"content": "yes", "reasoning_content": "hm"}, "yes", "hm"),
        ({"content": "yes", "reasoning": "hm"}, "yes", "hm"),
        ({"content": "yes", "thinking": "hm"}, "yes", "hm"),
        ({"content": "yes", "reasoning": {"summary": "hm"}}, "yes", "hm"),
        (
            {"content": "yes", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
            "yes",
            "hm",
        ),
        ({"content": "half a pair \ud83d"}, "half a pair �", None),
    ],
)
def test_texts_and_thoughts(message: dict[str, Any], text: str, reasoning: str | None) -> None:
    (choice,) = answer(message).choices
    assert (choice.text, choice.reasoning, choice.problem) == (text, reasoning, None)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "stop"),
        ("end_turn", "stop"),
        ("eos_token", "stop"),
        ("STOP", "stop"),
        ("tool_calls", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("max_output_tokens", "length"),
        ("model_length", "length"),
        ("model_context_window_exceeded", "length"),
        (None, "unknown"),
        ("something new", "unknown"),
    ],
)
def test_ends_of_texts(finish: str | None, reason: str) -> None:
    (choice,) = answer({"content": "a text"}, finish_reason=finish).choices
    assert (choice.finish_reason, choice.problem) == (reason, None)


@pytest.mark.parametrize(
    ("message", "choice", "says"),
    [
        ({"content": "half a t"}, {"finish_reason": "error"}, "the server broke off (error)"),
        ({"content": "half a t"}, {"finish_reason": "abort"}, "the server broke off (abort)"),
        ({"content": "h"}, {"finish_reason": "insufficient_system_resource"}, "broke off"),
        ({"content": "h"}, {"finish_reason": "network_error"}, "broke off"),
        ({"content": "h"}, {"finish_reason": "cancelled"}, "broke off"),
        ({"content": "h"}, {"error": {"code": 502, "message": "Upstream died"}}, "Upstream died"),
        ({"content": "h"}, {"finish_reason": "content_filter"}, "content filter"),
        ({"content": "h"}, {"finish_reason": "SAFETY"}, "content filter"),
        ({"content": "h"}, {"finish_reason": "PROHIBITED_CONTENT"}, "content filter"),
        ({"content": None, "refusal": "I cannot."}, {}, "the model refused: I cannot."),
        ({"content": None, "reasoning_content": "A"}, {}, "all text is in the reasoning"),
        ({"content": None, "reasoning": "A"}, {"finish_reason": "length"}, "raise max_new_tokens"),
        ({"content": " "}, {}, "the completion is empty"),
    ],
)
def test_what_is_no_answer_says_why(
    message: dict[str, Any], choice: dict[str, Any], says: str
) -> None:
    (found,) = answer(message, **choice).choices
    assert found.problem is not None and says in found.problem


@pytest.mark.parametrize(
    ("logprobs", "found"),
    [
        (None, None),
        ([], None),
        ({"content": []}, None),
        ({"content": [{"token": "A", "logprob": -0.1}]}, {"A": -0.1}),
        (
            {
                "content": [
                    {
                        "token": "A",
                        "logprob": -0.1,
                        "top_logprobs": [
                            {"token": "B", "logprob": None},
                            {"token": "C", "logprob": -math.inf},
                            {"token": "D", "logprob": "low"},
                        ],
                    }
                ]
            },
            {"A": -0.1, "C": -math.inf},
        ),
        ({"tokens": ["A"], "token_logprobs": [-0.2], "token_ids": [5]}, {"A": -0.2}),
        (
            {"tokens": ["A"], "token_logprobs": [-0.2], "top_logprobs": [{"B": -1.5}]},
            {"A": -0.2, "B": -1.5},
        ),
    ],
)
def test_first_tokens(logprobs: Any, found: dict[str, float] | None) -> None:
    (choice,) = answer({"content": "A"}, logprobs=logprobs).choices
    assert choice.first_token == found


def test_choices_come_in_the_order_of_their_index() -> None:
    body = {"choices": [{"index": i, "message": {"content": str(i)}} for i in (2, 0, 1)]}
    assert [choice.text for choice in read_answer(body).choices] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[1]",
        b"<html></html>",
        b'{"choices": 1}',
        b'{"choices": [{"message": 1}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        chunks({"choices": [{"delta": {"content": "a text without its e"}}]}),
        chunks("no JSON"),
        chunks("[1]", "[DONE]"),
    ],
)
def test_what_is_no_completion_is_told(body: bytes) -> None:
    with pytest.raises(Malformed, match="the server's answer is no chat completion"):
        read_answer(parsed(body))


def test_a_stream_is_put_together() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}
    body = chunks(
        {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "length"}]},
        {"choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [call]}}]},
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
                }
            ]
        },
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
                    "finish_reason": "stop",
                }
            ]
        },
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
    )
    found = read_answer(parsed(b": a comment\n\n" + body.replace(b"\n", b"\r\n")))
    assert [choice.text for choice in found.choices] == ["a", "b"]
    assert [choice.finish_reason for choice in found.choices] == ["stop", "length"]
    (call,) = found.choices[0].tool_calls
    assert call["function"] == {"name": "f", "arguments": "{}"}
    assert found.counts is not None and found.counts.prompt == 4


def test_an_error_within_a_stream_is_an_error() -> None:
    found = read_answer(parsed(chunks({"error": {"message": "overloaded", "code": 529}})))
    assert found.error == {"message": "overloaded", "code": 529}


# --- usage


@pytest.mark.parametrize(
    ("usage", "prompt", "completion", "cached"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}, 100, 20, 0),
        # Hidden reasoning: in the total only, beside the others, or among them already.
        ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 1120}, 100, 1020, 0),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "completion_tokens_details": {"reasoning_tokens": 1000},
            },
            100,
            1020,
            0,
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 1020,
                "total_tokens": 1120,
                "completion_tokens_details": {"reasoning_tokens": 1000},
            },
            100,
            1020,
            0,
        ),
        ({"input_tokens": 7, "output_tokens": 3}, 7, 3, 0),
        ({"prompt_tokens": "7", "completion_tokens": 3.0}, 7, 3, 0),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 90},
            },
            100,
            20,
            90,
        ),
        ({"prompt_tokens": 50, "completion_tokens": 1, "prompt_cache_hit_tokens": 40}, 50, 1, 40),
        ({"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 40}, 5, 1, 5),
        # What cannot be a number of tokens is none.
        ({"prompt_tokens": -1, "completion_tokens": 12}, 0, 12, 0),
        ({"prompt_tokens": 10**30, "completion_tokens": math.nan, "total_tokens": 9}, 9, 0, 0),
        ({"prompt_tokens": True, "completion_tokens": 2}, 0, 2, 0),
    ],
)
def test_tokens_under_their_many_names(
    usage: Any, prompt: int, completion: int, cached: int
) -> None:
    counts = token_counts(usage)
    assert counts is not None
    assert (counts.prompt, counts.completion, counts.cached) == (prompt, completion, cached)


@pytest.mark.parametrize("usage", [None, [], {}, "many", {"prompt_tokens": "many"}])
def test_no_numbers_are_none(usage: Any) -> None:
    assert token_counts(usage) is None


def test_cached_tokens_have_their_price() -> None:
    prices = TokenPrices(prompt=10.0, completion=20.0, cached=1.0)
    assert prices.cost(100, 5, 90) == pytest.approx((10 * 10 + 90 * 1 + 5 * 20) / 1e6)
    assert TokenPrices(prompt=10.0, completion=20.0).cost(100, 5, 90) == pytest.approx(1.1e-3)
