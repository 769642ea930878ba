"""Read the time that a server asks to wait: in headers of several kinds, or in its words."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT = r"\d+(?:\.\d+)?"
_PART = re.compile(rf"({_AMOUNT})(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_AMOUNT}(?:ms|s|m|h|d))+")
_IN_WORDS = re.compile(
    rf"(?:try again|retry|wait|retrydelay)\W+(?:[a-z]+\W+){{0,4}}?"
    rf"(?:(?P<short>(?:{_AMOUNT}(?:ms|s|m|h)\b)+|(?:{_AMOUNT}[hm])+{_AMOUNT}s\b)"
    rf"|(?P<amount>{_AMOUNT})\s*(?P<unit>ms|millisecond|second|sec|minute|min|hour|s\b))",
)
_WORDS_S = {
    **{"millisecond": 1e-3, "second": 1.0, "sec": 1.0, "minute": 60.0, "min": 60.0, "hour": 3600.0},
    **_UNITS_S,
}
_EPOCH = 1e9
"""Larger numbers of seconds are points in time since 1970, and a thousand times it milliseconds."""


def wait_s(headers: Mapping[str, str], words: str, *, now: float) -> float | None:
    """Return the seconds that a reply asks to wait; None if it says nothing that can be read.

    Args:
        headers: Names in lower case. `retry-after-ms` and `retry-after` (seconds or a date) come
            first, then the reset of a limit of which nothing remains, then any reset.
        words: The server's message, such as "Please try again in 7.66s".
        now: Seconds since 1970.
    """
    if (found := _number(headers.get("retry-after-ms"))) is not None and found >= 0:
        return found / 1e3
    if "retry-after" in headers:
        found = _seconds(headers["retry-after"], now)
        if found is not None:
            return found
    if (found := _reset(headers, now)) is not None:
        return found
    match = _IN_WORDS.search(words.lower())
    if match is None:
        return None
    if match["short"]:
        return _duration(match["short"])
    return float(match["amount"]) * _WORDS_S[match["unit"]]


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """The end of a limit's period, preferring those limits of which nothing remains."""
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        seconds = _seconds(value, now)
        if seconds is not None:
            remaining = _number(headers.get(name.replace("reset", "remaining")))
            (used_up if remaining is not None and remaining < 1 else others).append(seconds)
    if used_up:
        return max(used_up)
    return min(others, default=None)


def _seconds(value: str, now: float) -> float | None:
    """Read seconds, a duration such as 1m30s or 700ms, a point in time, or a date."""
    text = value.strip()
    number = _number(text)
    if number is not None:
        if number >= _EPOCH:
            number = number / 1e3 if number >= 1e3 * _EPOCH else number
            return max(0.0, number - now)
        return number if number >= 0 else None
    if _DURATION.fullmatch(text):
        return _duration(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)


def _duration(text: str) -> float:
    return sum(float(amount) * _UNITS_S[unit] for amount, unit in _PART.findall(text))


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
