"""Reasoning inside the texts of answers, split off: rows in our own columns → the same."""

from typing import Any

from prefine.data.answer_rows import TEXT_NAMES
from prefine.data.layouts.protocol import SourceRow, is_conversation
from prefine.reasoning import split_reasoning


def without_reasoning(row: SourceRow) -> SourceRow:
    """Return the row with reasoning as a field of its messages instead of in their texts."""
    values, count = dict(row.values), 0
    for side in ("chosen", "rejected"):
        if side in values:
            values[side], split = _split(values[side])
            count += split
    if isinstance(values.get("completions"), list):
        found = [_split_item(item) for item in values["completions"]]
        values["completions"] = [item for item, _ in found]
        count += sum(split for _, split in found)
    return row._replace(values=values, reasoned=count) if count else row


def _split_item(item: Any) -> tuple[Any, bool]:
    """Split the text of one of several completions, which may be an object with a text."""
    if isinstance(item, str):
        message, split = _split(item)
        return ({"message": message}, True) if split else (item, False)
    name = next((n for n in TEXT_NAMES if n in item), None) if isinstance(item, dict) else None
    if name is None:
        return item, False
    written, split = _split(item[name])
    return (item | {name: written}, True) if split else (item, False)


def _split(written: Any) -> tuple[Any, bool]:
    """Return a text or the last of some messages as a message with its reasoning, if it has any."""
    if isinstance(written, str):
        message: Any = {"role": "assistant", "content": written}
        earlier: list[Any] = []
    elif is_conversation([written]) or is_conversation(written):
        *earlier, message = written if isinstance(written, list) else [written]
    else:
        return written, False
    content = message.get("content")
    if not isinstance(content, str) or message.get("reasoning"):
        return written, False
    reasoning, answer = split_reasoning(content)
    if answer == content:
        return written, False
    message = message | {"content": answer} | ({"reasoning": reasoning} if reasoning else {})
    return [*earlier, message], True
