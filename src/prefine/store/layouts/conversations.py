"""Implicit prompts: chosen and rejected are whole conversations that begin alike.

Split at message boundaries or refused, never at characters: two texts may share the first letters of an answer.
"""

import re
from collections.abc import Mapping
from typing import Any

from prefine.errors import DataError
from prefine.store.layouts.base import Row, Values, conversation, has, rest, show

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def trl_implicit(row: Row, _: Mapping[str, Any]) -> Values:
    """Lists of messages without a prompt."""
    for side in ("chosen", "rejected"):
        if isinstance(row.values[side], str):
            others = rest(row.values, "chosen", "rejected")
            raise DataError(
                f"{row.where}: there is no column 'prompt', and {side} is a text without turns "
                f"({show(row.values[side])}), which cannot be split safely; "
                + (f"{has(others)}: map the prompt with columns: {{prompt: YOUR_COLUMN}}, or " if others else "")
                + "give prompt, chosen and rejected, or messages"
            )
    return split(row)


def anthropic_hh(row: Row, _: Mapping[str, Any]) -> Values:
    r"""Texts with turns marked by "\n\nHuman: " and "\n\nAssistant: "."""
    turns = {side: _turns(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")}
    return split(Row(row.where, row.values | turns))


def split(row: Row) -> Values:
    """The common first messages as the prompt, and the one assistant turn that each side adds.

    Raises:
        DataError: There is no such split.
    """
    if row.values.get("prompt") is not None:
        raise DataError(
            f"{row.where}: this row has a prompt beside whole conversations; remove one, or name the layout"
        )
    chosen, rejected = (conversation(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected"))
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == len(chosen) == len(rejected):
        common -= 1  # both are the same: a pair of equal answers, which is counted as such
    if common == 0:
        raise DataError(
            f"{row.where}: chosen and rejected do not begin with the same message, so there is no prompt in them; "
            "add a column prompt"
        )
    for side, turns in (("chosen", chosen[common:]), ("rejected", rejected[common:])):
        roles = [turn.get("role") for turn in turns]
        if roles != ["assistant"]:
            raise DataError(
                f"{row.where}, {side}: after the {common} messages that both sides share must come exactly one "
                f"assistant turn, got roles {show(roles)}; only one answer can be compared: cut the row, or give "
                "prompt, chosen and rejected"
            )
    values = rest(row.values, "prompt", "chosen", "rejected")
    return values | {"prompt": chosen[:common], "chosen": chosen[common:], "rejected": rejected[common:]}


def has_marks(values: Values) -> bool:
    """Whether these are texts with marked turns."""
    return any(isinstance(values[side], str) and _TURN.search(values[side]) for side in ("chosen", "rejected"))


def _turns(value: Any, where: str) -> list[dict[str, str]]:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text with turns marked by Human: and Assistant:, got {show(value)}")
    before, *parts = _TURN.split(value)
    if before.strip() or not parts:
        raise DataError(
            f"{where}: the text must begin with '\\n\\nHuman: ' or '\\n\\nAssistant: ', got {show(value)}; "
            "without the marks it cannot be split safely"
        )
    marks, texts = parts[::2], parts[1::2]
    return [
        {"role": _ROLES[mark], "content": content.removeprefix(" ")} for mark, content in zip(marks, texts, strict=True)
    ]
