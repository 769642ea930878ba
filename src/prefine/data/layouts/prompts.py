"""Build the whole prompt of a row: system prompt, instruction with input, marked turns."""

from typing import Any

from prefine.data.layouts.conversations import marked_prompt
from prefine.data.layouts.protocol import PROMPT_NAMES, Messages, Values, is_conversation, rest


def with_whole_prompt(values: Values, *, made_prompt: bool) -> Values:
    """Return the row with its whole prompt in one column.

    Args:
        values: In our own columns.
        made_prompt: The layout built the prompt, so other columns that could be one are not.
    """
    if "prompt" in values and (made_prompt or _repeats(values.get("messages"), values["prompt"])):
        values = put_aside(values, keep="prompt")
    names = [name for name in PROMPT_NAMES if name in values]
    if len(names) != 1:
        return values
    (name,) = names
    if (turns := marked_prompt(values[name])) is not None:
        answers = {
            side: _without_space(values[side])
            for side in ("chosen", "rejected", "completions")
            if side in values
        }
        values = values | answers | {name: turns}
    if name == "instruction" and isinstance(values[name], str) and _is_text(values.get("input")):
        values = rest(values, "input") | {name: f"{values[name]}\n\n{values['input']}"}
    for column in ("system", "system_prompt"):
        turns = _turns(values[name])
        starts_with_user = turns and turns[0].get("role") not in ("system", "developer")
        if starts_with_user and _is_text(values.get(column)):
            system = {"role": "system", "content": values[column]}
            values = rest(values, column) | {name: [system, *turns]}
    return values


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


def _without_space(value: Any) -> Any:
    """Remove the space between the mark of a turn and the answer."""
    if isinstance(value, list):
        return [_without_space(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value | {"text": _without_space(value["text"])}
    return value.removeprefix(" ") if isinstance(value, str) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
