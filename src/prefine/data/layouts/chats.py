"""Whole conversations: the assistant's last turn is the answer, what is before it the prompt."""

from collections.abc import Mapping
from typing import Any

from prefine.data.layouts.fields import conversation
from prefine.data.layouts.protocol import (
    HISTORY_NAMES,
    SYSTEM_NAMES,
    SourceRow,
    Values,
    is_conversation,
    rest,
)

_NAMES = ("conversations", "conversation", "messages")
# What a row with an answer or a prompt of its own has; its conversation says more, or the same.
_OTHERS = {"prompt", "instruction", "chosen", "rejected", "completions", "completion", "response"}
_OF_THE_PROMPT = {*SYSTEM_NAMES, "tools", "chat_template_kwargs", *HISTORY_NAMES}


def chat(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert a conversation (ShareGPT, LMSYS-Chat, TRL's `messages`) that ends with an answer.

    One that ends with a question is a prompt.
    """
    name = next(name for name in _NAMES if name in row.values)
    *before, last = conversation(_turns(row.values[name]), f"{row.where}, {name}")
    others = rest(row.values, name)
    if last.get("role") != "assistant" or not before:
        return others | {"prompt": [*before, last], "completions": []}
    of_prompt = {key: value for key, value in others.items() if key in _OF_THE_PROMPT}
    return of_prompt | {
        "prompt": before,
        "completions": [rest(others, *of_prompt) | {"text": [last]}],
    }


def chat_preference(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `conversations` (LlamaFactory's ShareGPT form) with a `chosen` and a `rejected`."""
    return rest(row.values, "conversations") | {"prompt": row.values["conversations"]}


def is_chat(values: Values) -> bool:
    """Return True if a row is a conversation and nothing else that could be asked or answered."""
    found = [values[name] for name in _NAMES if name in values]
    if len(found) != 1 or not values.keys().isdisjoint(_OTHERS):
        return False
    # Messages that end with a question are a prompt in our own columns.
    ends_with_answer = is_conversation(found[0]) and found[0][-1].get("role") == "assistant"
    return "messages" not in values or (ends_with_answer and "prefill" not in values)


def _turns(value: Any) -> Any:
    """Return the turns of Capybara's objects with `input` and `output` as messages."""
    if not is_conversation(value) or not all({"input", "output"} <= turn.keys() for turn in value):
        return value
    return [
        {"role": role, "content": turn[name]}
        for turn in value
        for role, name in (("user", "input"), ("assistant", "output"))
    ]
