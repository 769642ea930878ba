"""Messages of users' rows, in the forms that they come in → our own; what cannot be stored is left out and counted."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from prefine.data.import_report import ImportReport, UselessRow
from prefine.data.layouts.protocol import has, show
from prefine.errors import DataError
from prefine.records import Message

_REASONING = ("reasoning_content", "thinking")
_ROLES = {"developer": "system"}


def messages_of(value: Any, where: str, *, role: str, screen: ImportReport) -> tuple[Message, ...]:
    """The messages of a field.

    Args:
        value: A text, a message or a list of messages.
        where: The place of the field.
        role: Who says a text that stands alone.
        screen: Where fields that a message does not have are counted.

    Raises:
        UselessRow: A message is empty.
        DataError: It is none of these.
    """
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    elif isinstance(value, dict):
        value = [value]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(item, dict) for item in value)
    ):
        raise DataError(
            f"{where}: expected a text or a list of messages (objects with role and content), got "
            f"{show(value)}; "
            "fill it, or remove the row"
        )
    try:
        messages = tuple(Message.model_validate(_as_ours(item, where, screen)) for item in value)
    except ValidationError as error:
        raise DataError(f"{where}: {reason(error)}") from error
    for message in messages:
        if not message.content.strip() and not message.tool_calls:
            raise UselessRow(
                "empty prompt" if role == "user" else "empty answer",
                f"{where}: the text is empty ({show(message.content)}); remove the row or fill it",
            )
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: character {error.start} is half of a surrogate pair "
                f"({message.content[error.start]!r}); "
                "the file was cut inside an emoji: repair or remove the row"
            ) from error
    return messages


def structured(value: Any) -> Any:
    """A column that trainers also take as JSON text, without the fields that a table fills with None."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _without_none(value)


def storable(values: Mapping[str, Any], where: str, screen: ImportReport) -> dict[str, Any]:
    """The metadata that a file of ours can hold; the rest is left out and counted."""
    kept = {}
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError):
            kind = type(value).__name__
            remark = (
                f"{where}: the column {name!r} holds {kind} {show(value)}, which JSON "
                "cannot: remove or convert it"
            )
            screen.remark(
                UselessRow(f"without the column {name!r} ({kind}, which JSON cannot hold)", remark),
                where,
            )
            continue
        kept[name] = value
    return kept


def reason(error: Exception) -> str:
    """What a record has to say against a row."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (got {show(e.get('input'))})"
            for e in error.errors()
        )
    return str(error)


def _as_ours(message: dict[str, Any], where: str, screen: ImportReport) -> dict[str, Any]:
    """A message as chat services and tables hold it: other names, parts of a text, fields that are None."""
    # A field that only other rows have is None, or an empty list.
    known = {name: value for name, value in message.items() if value is not None and value != []}
    if "role" not in known:
        raise DataError(
            f"{where}: a message has no role; {has(known)}; messages need role and content: "
            "rename these"
        )
    for name in _REASONING:
        if isinstance(known.get(name), str):
            known.setdefault("reasoning", known[name])
    if isinstance(known["role"], str):
        known["role"] = _ROLES.get(known["role"], known["role"])
    if "tool_calls" in known:
        known["tool_calls"] = _without_none(known["tool_calls"])
        known.setdefault("content", "")  # a call needs no text
    elif message.get("content") == []:
        known["content"] = ""
    if isinstance(known.get("content"), list):
        known["content"] = _joined(known["content"], where)
    for name in set(known) - set(Message.model_fields) - set(_REASONING):
        remark = (
            f"{where}: a message has a field {name!r} ({show(known[name])}), which ours do "
            "not: remove it"
        )
        screen.remark(UselessRow(f"without the message field {name!r}", remark), where)
    return {name: known[name] for name in Message.model_fields if name in known}


def _joined(parts: list[Any], where: str) -> str:
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        odd = next(
            part for part, text in zip(parts, texts, strict=True) if not isinstance(text, str)
        )
        raise DataError(
            f"{where}: content must be a text or parts of type text, got {show(odd)}; images and "
            "files cannot be "
            "read: remove the row"
        )
    return "".join(text for text in texts if text)


def _without_none(value: Any) -> Any:
    """Tables give every object the fields of all; those of others are None."""
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
