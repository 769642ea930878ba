"""Messages and metadata of users' rows, converted to what our records can store."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from prefine.data.cells import plain_message
from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import has, is_conversation, show
from prefine.errors import DataError
from prefine.records import Message

_REASONING = ("reasoning_content", "thinking")
_MEDIA = re.compile(
    r"(?:image|img|picture|photo|video|audio)s?(?:_(?:url|path|file)s?)?\Z", re.IGNORECASE
)
# Parts of a content that hold a text, in the words of OpenAI's two interfaces; Gemini says none.
_TEXT_PARTS = (None, "text", "input_text", "output_text")


def messages_of(value: Any, where: str, *, role: str, report: ImportReport) -> tuple[Message, ...]:
    """Return the messages of a field.

    Args:
        value: A text, a message or a list of messages.
        where: The place of the field.
        role: Who says a text that stands alone.
        report: Counts the fields that our messages do not have.

    Raises:
        UselessRow: A message is empty.
        DataError: It is none of these.
    """
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    elif isinstance(value, dict):
        value = [value]
    if not is_conversation(value):
        raise DataError(
            f"{where}: expected a text or a list of messages (objects with role and content), got "
            f"{show(value)}; fill it, or remove the row"
        )
    try:
        messages = tuple(
            Message.model_validate(_as_our_message(item, where, report)) for item in value
        )
    except ValidationError as error:
        raise DataError(f"{where}: {reason(error)}; mend the message, or remove the row") from error
    for message in messages:
        # A system turn without a text is one that some templates write; a tool may return nothing.
        last = message is messages[-1]
        may_be_empty = message.role == "tool" or (message.role == "system" and not last)
        if not message.content.strip() and not message.tool_calls and not may_be_empty:
            whole = "prompt" if role == "user" else "answer"
            raise UselessRow(
                f"empty {whole if last else 'turn'}",
                f"{where}: the text is empty ({show(message.content)}); remove the row or fill it",
            )
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start} is half of a surrogate pair "
                f"({message.content[error.start]!r}); the file was cut inside an "
                "emoji: repair or remove the row"
            ) from error
    return messages


def refuse_media(values: Mapping[str, Any], where: str) -> None:
    """Raise DataError if a row or a message has pictures or sounds, which nothing here can read."""
    for name in filter(_MEDIA.match, values):
        value = values[name]
        if isinstance(value, str | list | dict) and value:
            raise DataError(
                f"{where}: {name} holds {show(value)}; images, sounds and videos cannot be read, "
                "and the text alone would be another question: remove the row, or the column if "
                "the text does not need it"
            )


def structured(value: Any) -> Any:
    """Parse a column that may be JSON text; drop fields that a table fills with None."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _without_none(value)


def storable(values: Mapping[str, Any], where: str, report: ImportReport) -> dict[str, Any]:
    """Return the metadata that JSON can hold; the other columns are left out and counted."""
    kept = {}
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError):
            kind = type(value).__name__
            report.remark(
                f"without the column {name!r} ({kind}, which JSON cannot hold)",
                f"{where}: the column {name!r} holds {kind} {show(value)}, which JSON cannot: "
                "remove or convert it",
                where,
            )
        else:
            kept[name] = value
    return kept


def reason(error: Exception) -> str:
    """Return the message of an error, with the field and the value of each pydantic error."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (got {show(e.get('input'))})"
            for e in error.errors()
        )
    return str(error)


def _as_our_message(message: dict[str, Any], where: str, report: ImportReport) -> dict[str, Any]:
    """Convert a message of a chat service or table: other names, parts of text, None."""
    refuse_media(message, where)
    given, message = message, plain_message(message)
    # A field that only other rows have is None, or an empty list.
    known = {name: value for name, value in message.items() if value is not None and value != []}
    if "role" not in known:
        raise DataError(
            f"{where}: a message has no role; {has(given)}; messages need role and content: rename "
            "these"
        )
    for name in _REASONING:
        if isinstance(known.get(name), str):
            known.setdefault("reasoning", known[name])
    if "tool_calls" in known:
        known["tool_calls"] = _without_none(known["tool_calls"])
        known.setdefault("content", "")  # a call needs no text
    elif "content" in message:
        known.setdefault("content", "")
    if isinstance(known.get("content"), list):
        known["content"] = _joined(known["content"], where)
    for name in set(known) - set(Message.model_fields) - set(_REASONING):
        report.remark(
            f"without the message field {name!r}",
            f"{where}: a message has a field {name!r} ({show(known[name])}), which ours do not: "
            "remove it",
            where,
        )
    return {name: known[name] for name in Message.model_fields if name in known}


def _joined(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        is_text = isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        text = part.get("text") if is_text else None
        if not isinstance(text, str):
            raise DataError(
                f"{where}: content must be a text or parts of type text, got {show(part)}; images "
                "and files cannot be read: remove the row"
            )
        texts.append(text)
    return "".join(texts)


def _without_none(value: Any) -> Any:
    """Drop the fields of None: tables give every object the fields of all objects."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
