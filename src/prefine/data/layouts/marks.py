"""Turns that are marked within a text, and answers that repeat their prompt."""

import re
from typing import Any

from prefine.data.layouts.protocol import PROMPT_NAMES, Values, is_conversation, show
from prefine.errors import DataError

_TURN = re.compile(r"(?:\A|\r?\n\r?\n)(Human|User|Assistant):")
_MARKED_PROMPT = re.compile(
    r"\A(\r?\n\r?\n)?(Human|User|Assistant):.*\r?\n\r?\nAssistant:\s*\Z", re.DOTALL
)
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}
_NEMO_TURN = re.compile(r"\n?<extra_id_[01]>(System|User|Assistant)\n")


def repeat_the_prompt(values: Values) -> bool:
    """Return True if there is a prompt, and an answer is a conversation that begins before it.

    One that begins with the assistant's turn is an answer of several turns, such as a call of a
    tool, its result and what the assistant makes of it.
    """
    sides = [values.get("chosen"), values.get("rejected")]
    return not values.keys().isdisjoint(PROMPT_NAMES) and any(
        is_conversation(side) and len(side) > 1 and side[0].get("role") != "assistant"
        for side in sides
    )


def has_marks(values: Values) -> bool:
    """Return True if an answer is a text with marked turns."""
    return any(
        isinstance(values[side], str) and _TURN.search(values[side])
        for side in ("chosen", "rejected")
    )


def marked_prompt(value: Any) -> list[dict[str, str]] | None:
    """Return the turns of a marked text that ends where the assistant's turn begins, else None."""
    if isinstance(value, str) and _MARKED_PROMPT.match(value):
        return turns_of(value, "prompt")[:-1]
    if isinstance(value, str) and value.startswith("<extra_id_"):
        turns = marked_turns(value)
        return turns if isinstance(turns, list) else None
    return None


def marked_turns(value: str) -> str | list[dict[str, str]]:
    """Split a text at NVIDIA's marks between turns; without a mark it stays a text.

    An empty system turn, which NeMo always writes, and the opening of the answer are left out.
    """
    first, *parts = _NEMO_TURN.split(value)
    if not parts:
        return value
    turns = [{"role": "user", "content": first}] if first else []
    for mark, content in zip(parts[::2], parts[1::2], strict=True):
        turns.append({"role": _ROLES[mark], "content": content})
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    return [turn for turn in turns if turn != {"role": "system", "content": ""}]


def turns_of(value: Any, where: str) -> list[dict[str, str]]:
    """Split a text at the marks of its turns.

    Raises:
        DataError: It is no text, or does not begin with a mark.
    """
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a text with turns marked by Human: and Assistant:, got "
            f"{show(value)}"
        )
    before, *parts = _TURN.split(value)
    if before.strip() or not parts:
        raise DataError(
            f"{where}: the text must begin with '\\n\\nHuman: ' or '\\n\\nAssistant: ', got "
            f"{show(value)}; without the marks it cannot be split safely"
        )
    marks, texts = parts[::2], parts[1::2]
    return [
        {"role": _ROLES[mark], "content": content.removeprefix(" ")}
        for mark, content in zip(marks, texts, strict=True)
    ]
