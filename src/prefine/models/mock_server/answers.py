"""Answers of the mock server: pure functions of the request, so that runs can be repeated."""

import math
import re
from collections.abc import Mapping
from typing import Any

from prefine.records import content_hash

_CODE = re.compile(r"verdict-([0-9a-f]{16}): A\|B\|tie")
_ONE_LETTER = re.compile(r"answer with a or b", re.IGNORECASE)
_WORDS = [
    "a",
    "river",
    "stone",
    "cloud",
    "window",
    "garden",
    "letter",
    "number",
    "system",
    "answer",
    "question",
    "reason",
    "result",
    "effect",
    "market",
    "engine",
    "signal",
    "with",
    "under",
    "over",
    "after",
    "before",
    "because",
    "while",
    "and",
    "but",
    "then",
]
_WORDS_PER_ANSWER = 24


def completion(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat completion to a request, with `n` choices, in OpenAI's form.

    A judge's question gets a verdict in the form that it asks for; with `logprobs`, probabilities
    of the first token; anything else some words.
    """
    count = request.get("n") or 1
    choices = [_choice(request, index) for index in range(count)]
    prompt_tokens = sum(len(_text(message)) for message in request["messages"]) // 4 + 1
    completion_tokens = sum(
        len(choice["message"]["content"].split()) for choice in choices if choice["message"]
    )
    return {
        "id": f"mock-{content_hash(request['messages'], request.get('seed'))}",
        "object": "chat.completion",
        "created": 0,
        "model": request.get("model", "mock"),
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _choice(request: Mapping[str, Any], index: int) -> dict[str, Any]:
    messages = request["messages"]
    asked = _text(messages[-1])
    seed = content_hash("mock", [_text(message) for message in messages])
    p_first = 0.02 + 0.96 * _share(seed)
    label = "A" if p_first > 0.5 else "B"
    codes = _CODE.findall("\n".join(_text(message) for message in messages))
    if codes:
        text = f"I weighed them against each other.\nverdict-{codes[-1]}: {label}"
    elif _ONE_LETTER.search(asked):
        text = label
    else:
        draw = content_hash(seed, request.get("seed"), index)
        text = " ".join(
            _WORDS[int(content_hash(draw, place), 16) % len(_WORDS)]
            for place in range(_WORDS_PER_ANSWER)
        )
    limit = request.get("max_tokens") or request.get("max_completion_tokens")
    words = text.split(" ")
    cut = limit is not None and len(words) > limit
    choice = {
        "index": index,
        "message": {"role": "assistant", "content": " ".join(words[:limit]) if cut else text},
        "finish_reason": "length" if cut else "stop",
    }
    if request.get("logprobs"):
        choice["logprobs"] = {"content": [_first_token(text, p_first, request)]}
    return choice


def _first_token(text: str, p_first: float, request: Mapping[str, Any]) -> dict[str, Any]:
    shares = {text.split()[0]: 0.98}
    if text in ("A", "B"):
        shares = {"A": 0.98 * p_first, "B": 0.98 * (1 - p_first)}
    likeliest = sorted(shares, key=lambda token: -shares[token])
    top = [{"token": token, "logprob": math.log(shares[token])} for token in likeliest]
    return {**top[0], "top_logprobs": top[: request.get("top_logprobs") or 0]}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def _share(key: str) -> float:
    return int(key, 16) / 16.0**16
