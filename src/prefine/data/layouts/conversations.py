"""Chosen and rejected as whole conversations that begin alike; the prompt is what they share.

Split at message boundaries or not at all, never at characters: two texts may share the first
letters of an answer.
"""

import re
from collections.abc import Mapping
from typing import Any

from prefine.data.import_report import UselessRow
from prefine.data.layouts.protocol import (
    PROMPT_NAMES,
    SourceRow,
    Values,
    conversation,
    has,
    rest,
    show,
)
from prefine.errors import DataError

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_MARKED_PROMPT = re.compile(r"\A(\n\n)?(Human|Assistant):.*\n\nAssistant:\s*\Z", re.DOTALL)
_ROLES = {"Human": "user", "Assistant": "assistant"}


def trl_implicit(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Lists of messages without a prompt."""
    for side in ("chosen", "rejected"):
        if isinstance(row.values[side], str):
            others = rest(row.values, "chosen", "rejected")
            raise DataError(
                f"{row.where}: there is no column 'prompt', and {side} is a text without turns "
                f"({show(row.values[side])}), which cannot be split safely; "
                + (
                    f"{has(others)}: map the prompt with columns: {{prompt: YOUR_COLUMN}}, or "
                    if others
                    else ""
                )
                + "give prompt, chosen and rejected, or messages"
            )
    return split(row)


def anthropic_hh(row: SourceRow, _: Mapping[str, Any]) -> Values:
    r"""Texts with turns marked by "\n\nHuman: " and "\n\nAssistant: "."""
    turns = {
        side: _turns(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")
    }
    return split(SourceRow(row.where, row.values | turns))


def binarized(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """`prompt` beside conversations that repeat it; `messages` are the chosen one once more."""
    values = (
        rest(row.values, "messages")
        if row.values.get("messages") == row.values["chosen"]
        else row.values
    )
    return split(SourceRow(row.where, values)) if repeat_the_prompt(values) else values


def repeat_the_prompt(values: Values) -> bool:
    """Whether a prompt stands beside answers that are conversations of several messages."""
    sides = [values.get("chosen"), values.get("rejected")]
    return not values.keys().isdisjoint(PROMPT_NAMES) and any(
        isinstance(side, list) and len(side) > 1 for side in sides
    )


def split(row: SourceRow) -> Values:
    """The common first messages as the prompt, and the one assistant turn that each side adds.

    Raises:
        UselessRow: There is no such split.
        DataError: A side is no conversation, or a prompt beside them is not among the messages that
            they share.
    """
    chosen, rejected = (
        conversation(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")
    )
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == len(chosen) == len(rejected):
        common -= 1  # both are the same: a pair of equal answers, which is counted as such
    prompt = chosen[:common]
    if (given := row.values.get("prompt")) is not None:
        _must_be_in(given, prompt, row.where)
    problem = (
        ""
        if prompt
        else "chosen and rejected do not begin with the same message, so there is no prompt in them"
    )
    for side, turns in (("chosen", chosen[common:]), ("rejected", rejected[common:])):
        roles = [turn.get("role") for turn in turns]
        if not problem and roles != ["assistant"]:
            problem = (
                f"in {side}, after the {common} messages that both sides share must come exactly "
                "one assistant turn, "
                f"got roles {show(roles)}; only one answer can be compared"
            )
    if problem:
        raise UselessRow(
            "cannot be split at one answer",
            f"{row.where}: {problem}: cut or remove the row, or give prompt, chosen and rejected",
        )
    values = rest(row.values, "prompt", "chosen", "rejected")
    return values | {"prompt": prompt, "chosen": chosen[common:], "rejected": rejected[common:]}


def _must_be_in(given: Any, shared: list[dict[str, Any]], where: str) -> None:
    if isinstance(given, str):
        users = [turn.get("content") for turn in shared if turn.get("role") == "user"]
        found = given.strip() in [text.strip() for text in users if isinstance(text, str)]
    else:
        found = isinstance(given, list) and shared[: len(given)] == given
    if not found:
        raise DataError(
            f"{where}: prompt {show(given)} is not a user turn of chosen and rejected, which "
            "begin with "
            f"{show(shared[0] if shared else None)}; repair the row, or rename that column with "
            "columns"
        )


def has_marks(values: Values) -> bool:
    """Whether these are texts with marked turns."""
    return any(
        isinstance(values[side], str) and _TURN.search(values[side])
        for side in ("chosen", "rejected")
    )


def marked_prompt(value: Any) -> list[dict[str, str]] | None:
    """The turns of a prompt that has marks and ends where the assistant is to speak; None if it is no such text."""
    if not isinstance(value, str) or not _MARKED_PROMPT.match(value):
        return None
    return _turns(value, "prompt")[:-1]


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
            f"{show(value)}; "
            "without the marks it cannot be split safely"
        )
    marks, texts = parts[::2], parts[1::2]
    return [
        {"role": _ROLES[mark], "content": content.removeprefix(" ")}
        for mark, content in zip(marks, texts, strict=True)
    ]
