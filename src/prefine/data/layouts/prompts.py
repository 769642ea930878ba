"""What a prompt is made of besides its own column: a system prompt, an input, marks of turns."""

from typing import Any

from prefine.data.layouts.conversations import marked_prompt
from prefine.data.layouts.protocol import PROMPT_NAMES, Values, rest

_SYSTEM = ("system", "system_prompt")


def settled(values: Values, *, made_prompt: bool) -> Values:
    """The row with its whole prompt in one column.

    Args:
        values: In our own columns.
        made_prompt: The layout says what the prompt is, so that other columns that could be one are
            not.
    """
    if "prompt" in values and (made_prompt or _repeats(values.get("messages"), values["prompt"])):
        values = put_aside(values, keep="prompt")
    names = [name for name in PROMPT_NAMES if name in values]
    if len(names) != 1:
        return values
    (name,) = names
    if (turns := marked_prompt(values[name])) is not None:
        sides = {
            side: _continued(values[side])
            for side in ("chosen", "rejected", "completions")
            if side in values
        }
        values = values | sides | {name: turns}
    if name == "instruction" and isinstance(values[name], str) and _is_text(values.get("input")):
        values = rest(values, "input") | {name: f"{values[name]}\n\n{values['input']}"}
    for column in _SYSTEM:
        turns = _turns(values[name])
        if (
            _is_text(values.get(column))
            and turns
            and turns[0].get("role") not in ("system", "developer")
        ):
            system = {"role": "system", "content": values[column]}
            values = rest(values, column) | {name: [system, *turns]}
    return values


def put_aside(values: Values, *, keep: str) -> Values:
    """The same; columns that could be the prompt and are not, under names that cannot."""
    others = set(PROMPT_NAMES) - {keep}
    return {f"unused_{name}" if name in others else name: value for name, value in values.items()}


def _repeats(messages: Any, prompt: Any) -> bool:
    """Whether a conversation begins with the prompt."""
    turns, known = _turns(messages), _turns(prompt)
    return bool(known) and turns[: len(known)] == known


def _turns(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    turns = [value] if isinstance(value, dict) else value
    return (
        turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else []
    )


def _continued(value: Any) -> Any:
    """Answers without the space that stands between the mark and them."""
    if isinstance(value, list):
        return [_continued(item) for item in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return value | {"text": _continued(value["text"])}
    return value.removeprefix(" ") if isinstance(value, str) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
