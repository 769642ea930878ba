"""The words that servers have for the end of an answer, in lower case."""

import re

from prefine.records import FinishReason

# There are many; those that mean cut or broken have these in common.
_STOP = frozenset(
    [
        "stop",
        "stop_sequence",
        "end_turn",
        "eos",
        "eos_token",
        "tool_calls",
        "tool_use",
        "function_call",
        "complete",
        "completed",
        "done",
        "finished",
    ]
)
_FILTERED = re.compile(
    r"filter|safety|block|prohibit|recitation|sensitive|refus|spii|moderation|guardrail"
)
_BROKEN = re.compile(
    r"error|abort|cancel|fail|timeout|timed.?out|insufficient|overload|interrupt|malformed"
    r"|disconnect|unavailable|crash"
)
_CUT = re.compile(r"length|max.*tokens|token.?limit|context|truncat|budget")


def finish_reason(word: str) -> FinishReason:
    """Return how an answer ended, "unknown" if the word says neither stopped nor cut."""
    if word in _STOP:
        return "stop"
    return "length" if is_cut(word) else "unknown"


def is_broken(word: str) -> bool:
    """Return True if the answer is the beginning of one that failed."""
    return _BROKEN.search(word) is not None


def is_filtered(word: str) -> bool:
    """Return True if a filter of contents ended the answer."""
    return _FILTERED.search(word) is not None


def is_cut(word: str) -> bool:
    """Return True if a limit of tokens ended the answer."""
    return _CUT.search(word) is not None
