"""Bytes and texts of users → values of JSON, or an error that shows the place."""

import json
from typing import Any

from prefine.errors import DataError

_FIRST_CHARACTERS = 80
# Python writes these though JSON has none of them; what is no number is missing.
_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}


def decoded(data: bytes, where: str) -> str:
    """UTF-8 text of bytes.

    Raises:
        DataError: It is none; the message has the place and the byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8 ({data[error.start : error.start + 4]!r}); "
            "convert the file, for example with iconv -t UTF-8"
        ) from error


def parsed(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        DataError: It is not valid, names a field twice, or holds text that no file can hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_CONSTANTS.get)
    # A number of thousands of digits is a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not valid JSON ({error}): {text[:_FIRST_CHARACTERS].strip()!r}"
        ) from error
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(value, where)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} appears twice in one object; keep one")
    return values


def _refuse_half_characters(value: Any, where: str) -> None:
    """Text that no file can hold: JSON may escape one half of a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.start + 20]
        raise DataError(
            f"{where}: half of a surrogate pair in {around!r}; the text was cut inside a "
            "character such as an emoji: "
            "repair or remove the row"
        ) from error


def object_of(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is an object.

    Raises:
        DataError: It is not.
    """
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with named fields, found {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """A value's type and beginning, for a message."""
    return f"{type(value).__name__} {str(value)[:_FIRST_CHARACTERS]!r}"
