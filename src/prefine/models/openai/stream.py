"""Put a stream of chunks together, as servers that only stream send them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TEXTS = ("content", "reasoning_content", "reasoning", "thinking", "refusal")


def assembled(text: str) -> dict[str, Any]:
    """Return the chat completion whose chunks are the events of a stream.

    Raises:
        ValueError: An event is no JSON, or the stream ends without saying so.
    """
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    done = False
    for data in _events(text):
        if data == "[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        if not isinstance(chunk, Mapping):
            raise ValueError("an event is no object")
        whole |= {k: v for k, v in chunk.items() if k in ("usage", "error", "model") and v}
        for choice in _objects(chunk.get("choices")):
            index = choice.get("index")
            _add(choices.setdefault(index if type(index) is int else 0, {}), choice)
    for choice in choices.values():
        if calls := choice["message"].get("tool_calls"):
            choice["message"]["tool_calls"] = [calls[number] for number in sorted(calls)]
    finished = bool(choices) and all(choice.get("finish_reason") for choice in choices.values())
    if not (done or finished or "error" in whole):
        raise ValueError("the stream ends without an end")
    return whole | {"choices": [{"index": i, **choices[i]} for i in sorted(choices)]}


def _events(text: str) -> Iterator[str]:
    """The data of each event; lines of one event are joined."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line.startswith("data:"):
            lines.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _add(choice: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    found = chunk.get("delta") or chunk.get("message")
    delta = found if isinstance(found, Mapping) else {}
    for name in _TEXTS:
        piece = delta.get(name)
        if isinstance(piece, str):
            message[name] = (message.get(name) or "") + piece
        elif isinstance(piece, list):
            message[name] = [*(message.get(name) or []), *piece]
    for call in _objects(delta.get("tool_calls")):
        _add_call(message.setdefault("tool_calls", {}), call)
    for name in ("finish_reason", "error"):
        if chunk.get(name):
            choice[name] = chunk[name]
    logprobs = chunk.get("logprobs")
    if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
        choice.setdefault("logprobs", {"content": []})["content"] += logprobs["content"]


def _add_call(calls: dict[int, dict[str, Any]], piece: Mapping[str, Any]) -> None:
    index = piece.get("index")
    number = index if type(index) is int else len(calls)
    call = calls.setdefault(number, {"function": {"name": "", "arguments": ""}})
    call |= {name: piece[name] for name in ("id", "type") if piece.get(name)}
    function = piece.get("function")
    if isinstance(function, Mapping):
        for name in ("name", "arguments"):
            call["function"][name] += str(function.get(name) or "")


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
