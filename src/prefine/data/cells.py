"""Cells as files have them → plain values: the same messages, whatever the format and the words.

Messages come as lists of objects, as JSON text of such lists (in any format), as a struct of lists
(older `datasets` tables), with `from` and `value` (ShareGPT), and with other names of roles.
"""

import json
import re
from typing import Any

from prefine.data.layouts.protocol import SourceRow, Values
from prefine.errors import DataError

# What str() makes of messages; a table of objects that was written as CSV is full of it.
_PYTHON_MESSAGES = re.compile(
    r"(?:array\()?\[?\s*\{'(?:(?:role|content|from|value)':|[^{}]{1,300}, '(?:role|from)':)"
)
# Columns whose JSON text is read whatever it holds: nobody writes prose that begins with a bracket
# there.
_STRUCTURED = {
    "completions",
    "conversation",
    "conversations",
    "tools",
    "chat_template_kwargs",
    "models",
    "choices",
    "turns",
    "history",
    "answers",
    "generations",
    "generation_model",
    "generation_models",
    "rating",
    "ratings",
    "rationale",
    "rationales",
}
# `parts` is Gemini's, `message` Cohere's.
_ROLE_NAMES, _TEXT_NAMES = ("role", "from"), ("content", "value", "text", "parts", "message")
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "function_call": "assistant",
    "developer": "system",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
_KNOWN = {"system", "user", "assistant", "tool", *_ROLES}


def plain(row: SourceRow) -> SourceRow:
    """Return the row with its cells as plain values.

    Raises:
        DataError: A cell has messages as Python prints them.
    """
    values = {name: _plain_cell(name, value, row.where) for name, value in row.values.items()}
    return row._replace(values=values)


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with our names: `role` and `content`, and the roles of chat templates."""
    known = dict(message)
    for ours, names in (("role", _ROLE_NAMES), ("content", _TEXT_NAMES)):
        present = sorted((name for name in names if name in known), key=lambda n: known[n] is None)
        if present and present[0] != ours:
            known[ours] = known.pop(present[0])
    said = known.get("role")
    if isinstance(said, str):
        role = said.strip().lower()
        known["role"] = _ROLES.get(role, role)
        if role == "function_call" and (calls := _calls(known.get("content"))):
            known |= {"content": "", "tool_calls": calls}
    return known


def _plain_cell(name: str, value: Any, where: str) -> Any:
    if isinstance(value, str):
        if _PYTHON_MESSAGES.match(value):
            raise DataError(
                f"{where}: the cell {name} holds messages as Python prints them ({value[:40]!r}), "
                "not as JSON; write the table as JSON Lines or Parquet"
            )
        parsed = json_value(value)
        if parsed is None or not (name in _STRUCTURED or _are_messages(parsed)):
            return value
        value = parsed
    return _plain_value(value, rows=name in _STRUCTURED)


def _plain_value(value: Any, *, rows: bool = False) -> Any:
    """Convert the messages in a value; with `rows`, a struct of lists becomes a list of objects."""
    if isinstance(value, str):
        parsed = json_value(value)
        return _plain_value(parsed) if parsed is not None and _are_messages(parsed) else value
    if isinstance(value, dict):
        if _is_struct_of_lists(value, rows=rows):
            items = [
                dict(zip(value, fields, strict=True))
                for fields in zip(*value.values(), strict=True)
            ]
            return _plain_value(items)
        if _is_message(value):
            return plain_message(value)
        return {name: _plain_value(item) for name, item in value.items()}
    return [_plain_value(item) for item in value] if isinstance(value, list) else value


def json_value(text: str) -> Any:
    """Return the list or object that a text is in JSON, also in JSON of its JSON, else None."""
    if not text.lstrip().startswith(("[", "{", '"[', '"{')):
        return None
    try:
        value = json.loads(text)
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def _are_messages(value: Any) -> bool:
    if isinstance(value, dict):
        conversation = value.get("messages")  # the input of OpenAI's preference data
        return (
            _is_message(value)
            or _is_struct_of_lists(value)
            or (isinstance(conversation, list) and _are_messages(conversation))
        )
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    """Return True for an object that says a role and what it says."""
    if not isinstance(value, dict):
        return False
    if isinstance(role := value.get("role"), str):
        names = {"content", "value", "tool_calls"}
        if role.strip().lower() in _KNOWN:
            names |= {"text", "parts", "message"}
        return not names.isdisjoint(value)
    return isinstance(value.get("from"), str) and isinstance(value.get("value"), str | None)


def _is_struct_of_lists(value: dict[str, Any], *, rows: bool = False) -> bool:
    names = value.keys()
    of_messages = not names.isdisjoint(_ROLE_NAMES) and not names.isdisjoint(_TEXT_NAMES)
    return (
        (rows or of_messages)
        and bool(value)
        and all(isinstance(items, list) for items in value.values())
        and len({len(items) for items in value.values()}) == 1
    )


def _calls(content: Any) -> list[Values] | None:
    """Return the calls that a turn of the role function_call writes as JSON text."""
    value = json_value(content) if isinstance(content, str) else content
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        return None
    return [{"type": "function", "function": call} for call in calls]
