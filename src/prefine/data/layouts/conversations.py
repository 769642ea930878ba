"""Chosen and rejected as whole conversations whose common beginning is the prompt.

Split at message boundaries or not at all, never at characters: two texts may share the first
letters of an answer.
"""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from prefine.data.import_report import UselessRow
from prefine.data.layouts.fields import conversation
from prefine.data.layouts.marks import repeat_the_prompt, turns_of
from prefine.data.layouts.protocol import Messages, SourceRow, Values, has, rest, show
from prefine.errors import DataError


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
        side: turns_of(row.values[side], f"{row.where}, {side}") for side in ("chosen", "rejected")
    }
    return split(SourceRow(row.where, row.values | turns))


def binarized(row: SourceRow, _: Mapping[str, Any]) -> Values:
    """Convert `prompt` beside conversations that repeat it; `messages` are the chosen one again."""
    values = row.values
    if values.get("messages") == values["chosen"]:
        values = rest(values, "messages")
    return split(SourceRow(row.where, values)) if repeat_the_prompt(values) else values


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
