"""Chosen and rejected as whole conversations whose common beginning is the prompt.

Split at message boundaries or not at all, never at characters: two texts may share the first
letters of an answer.
"""

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from prefine.data.import_report import UselessRow
from prefine.data.layouts.protocol import (
    PROMPT_NAMES,
    Messages,
    SourceRow,
    Values,
    conversation,
    has,
    is_conversation,
    rest,
    show,
)
from prefine.errors import DataError

_TURN = re.compile(r"(?:\A|\r?\n\r?\n)(Human|User|Assistant):")
_MARKED_PROMPT = re.compile(
    r"\A(\r?\n\r?\n)?(Human|User|Assistant):.*\r?\n\r?\nAssistant:\s*\Z", re.DOTALL
)
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant", "System": "system"}
_NEMO_TURN = re.compile(r"\n?<extra_id_[01]>(System|User|Assistant)\n")


def trl_implicit(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert lists of messages without a prompt."""
    for side in ("chosen", "rejected"):
        if isinstance(row.values[side], str):
            others = rest(row.values, "chosen", "rejected")
            remedy = f"{has(others)}: map the prompt with columns: {{prompt: YOUR_COLUMN}}, or "
            raise DataError(
                f"{row.where}: there is no column 'prompt', and {side} is a text without turns "
                f"({show(row.values[side])}), which cannot be split safely; "
                f"{remedy if others else ''}give prompt, chosen and rejected, or messages"
            )
    return split(row)


def anthropic_hh(row: SourceRow, _: Mapping[str, Any]) -> Values:
    r"""Convert texts with turns marked by "\n\nHuman: " and "\n\nAssistant: "."""
    turns = {
        side: _turns(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")
    }
    return split(SourceRow(row.where, row.values | turns))


def binarized(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `prompt` beside conversations that repeat it; `messages` are the chosen one again."""
    values = row.values
    if values.get("messages") == values["chosen"]:
        values = rest(values, "messages")
    return split(SourceRow(row.where, values)) if repeat_the_prompt(values) else values


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


def split(row: SourceRow) -> Values:
    """Split into the common first messages and the turns that each side adds.

    What a side adds begins and ends with a turn of the assistant.

    Raises:
        UselessRow: There is no such split.
        DataError: A side is no conversation, or a prompt beside them is not among the messages that
            they share.
    """
    chosen, rejected = (
        conversation(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")
    )
    both = zip(chosen, rejected, strict=False)
    common = sum(1 for _ in takewhile(lambda turns: turns[0] == turns[1], both))
    if common == len(chosen) == len(rejected):
        common -= 1  # both are the same: a pair of equal answers, which is counted as such
    prompt = chosen[:common]
    if (given := row.values.get("prompt")) is not None:
        _check_prompt(given, prompt, row.where)
    answers = {"chosen": chosen[common:], "rejected": rejected[common:]}
    problem = ""
    if not prompt:
        problem = (
            "chosen and rejected do not begin with the same message, so there is no prompt in them"
        )
    for side, turns in answers.items():
        roles = [turn.get("role") for turn in turns]
        if not problem and (roles[:1], roles[-1:]) != (["assistant"], ["assistant"]):
            problem = (
                f"in {side}, after the {common} messages that both sides share must come turns "
                f"that begin and end with the assistant's, got roles {show(roles)}"
            )
    if problem:
        raise UselessRow(
            "cannot be split at one answer",
            f"{row.where}: {problem}: cut or remove the row, or give prompt, chosen and rejected",
        )
    return row.values | {"prompt": prompt} | answers


def _check_prompt(given: Any, shared: Messages, where: str) -> None:
    if isinstance(given, str):
        users = [turn.get("content") for turn in shared if turn.get("role") == "user"]
        found = given.strip() in [text.strip() for text in users if isinstance(text, str)]
    else:
        found = isinstance(given, list) and shared[: len(given)] == given
    if not found:
        raise DataError(
            f"{where}: prompt {show(given)} is not a user turn of chosen and rejected, which begin "
            f"with {show(shared[0] if shared else None)}; repair the row, or rename that column "
            "with columns"
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
        return _turns(value, "prompt")[:-1]
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


def _turns(value: Any, where: str) -> list[dict[str, str]]:
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
