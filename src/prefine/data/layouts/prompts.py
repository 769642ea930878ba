"""Build the whole prompt of a row: system prompt, instruction with input, marked turns."""

from typing import Any

from prefine.data.layouts.marks import marked_prompt
from prefine.data.layouts.protocol import (
    HISTORY_NAMES,
    PROMPT_NAMES,
    SYSTEM_NAMES,
    Messages,
    Values,
    is_conversation,
    is_missing,
    is_text,
    rest,
    show,
)
from prefine.errors import DataError

# What an instruction is about: Alpaca's column, and Dolly's.
_READ_WITH_INSTRUCTION = ("input", "context")
# Earlier turns, too, if it holds any; anything else in it is metadata.
_MAY_BE_OTHER = ("context",)


def with_whole_prompt(values: Values, where: str, *, made_prompt: bool) -> Values:
    """Return the row with its whole prompt in one column.

    Args:
        values: In our own columns.
        where: The place of the row.
        made_prompt: The layout built the prompt, so other columns that could be one are not.

    Raises:
        DataError: There are earlier turns that cannot be read, so the prompt would lack them.
    """
    if "prompt" in values and (made_prompt or _repeats(values.get("messages"), values["prompt"])):
        values = put_aside(values, keep="prompt")
    names = [name for name in PROMPT_NAMES if name in values]
    if len(names) != 1:
        return values
    (name,) = names
    if (turns := marked_prompt(values[name])) is not None:
        answers = {
            side: _behind_prompt(values[side], values[name])
            for side in ("chosen", "rejected", "completions")
            if side in values
        }
        values = values | answers | {name: turns}
    if name == "instruction" and isinstance(values[name], str):
        column = next((c for c in _READ_WITH_INSTRUCTION if is_text(values.get(c))), None)
        if column is not None:
            values = rest(values, column) | {name: f"{values[name]}\n\n{values[column]}"}
    values = _with_history(values, name, where)
    for column in SYSTEM_NAMES:
        turns = _turns(values[name])
        starts_with_user = turns and turns[0].get("role") not in ("system", "developer")
        if starts_with_user and is_text(values.get(column)):
            system = {"role": "system", "content": values[column]}
            values = rest(values, column) | {name: [system, *turns]}
    return values


def _with_history(values: Values, name: str, where: str) -> Values:
    """Put the turns of columns such as `history` before those of the prompt."""
    for column in (*HISTORY_NAMES, *_MAY_BE_OTHER):
        history = values.get(column)
        if is_missing(history) or history == []:
            continue
        earlier, turns = _earlier_turns(history), _turns(values[name])
        if earlier is None or not turns:
            if column in _MAY_BE_OTHER:
                continue
            raise DataError(
                f"{where}: {column} must be earlier turns, as pairs [question, answer] or as "
                f"messages, got {show(history)}; repair it, or if it is no part of the prompt, "
                f"rename it with columns: {{unused_{column}: {column}}}"
            )
        system = [turn for turn in turns[:1] if turn.get("role") == "system"]
        if turns[len(system) : len(system) + len(earlier)] != earlier:
            turns = [*system, *earlier, *turns[len(system) :]]
        values = rest(values, column) | {name: turns}
    return values


def _earlier_turns(history: Any) -> Messages | None:
    """Return messages, or pairs of a question and an answer, as messages; else None."""
    if is_conversation(history):
        return history if all("role" in turn for turn in history) else None
    if not isinstance(history, list) or not all(_is_exchange(item) for item in history):
        return None
    return [
        {"role": role, "content": text}
        for exchange in history
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]


def _is_exchange(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(t, str) for t in item)


def put_aside(values: Values, *, keep: str) -> Values:
    """Rename the columns that could be the prompt and are not, so that they are metadata."""
    others = set(PROMPT_NAMES) - {keep}
    return {f"unused_{name}" if name in others else name: value for name, value in values.items()}


def _repeats(messages: Any, prompt: Any) -> bool:
    """Return True if a conversation begins with the prompt."""
    turns = _turns(prompt)
    return bool(turns) and _turns(messages)[: len(turns)] == turns


def _turns(value: Any) -> Messages:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    turns = [value] if isinstance(value, dict) else value
    return turns if is_conversation(turns) else []


def _behind_prompt(value: Any, prompt: str) -> Any:
    """Remove the marked prompt that an answer may repeat, and the space behind the mark."""
    if isinstance(value, list):
        return [_behind_prompt(item, prompt) for item in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value | {"text": _behind_prompt(value["text"], prompt)}
    return value.removeprefix(prompt).removeprefix(" ") if isinstance(value, str) else value
