"""Format numbers, units and hostile text for people."""

import unicodedata
from collections.abc import Sequence

from prefine.records import MetricValue

NBSP = "\u00a0"
NO_BREAK = "\u2060"
"""WORD JOINER: no line ends beside it."""
_LONG_CHARACTERS, _LONG_LINES = 700, 14
"""A text with more of either is folded."""
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Replace what could break or reorder a page by something visible.

    NUL becomes ␀, an override of the writing direction becomes ⟨U+202E⟩, a lone surrogate becomes
    �.
    """
    text = text.replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    return "".join(c if c.isprintable() or c in "\n\t" else _visible_character(c) for c in text)


def _visible_character(c: str) -> str:
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if c in _BIDI_CONTROLS:
        return f"\u27e8U+{code:04X}\u27e9"
    if unicodedata.category(c) in ("Cs", "Cc") or code & 0xFFFE == 0xFFFE:
        return "\ufffd"
    return c


def is_long(content: str) -> bool:
    """Return True if a text is folded on a page."""
    return len(content) > _LONG_CHARACTERS or content.count("\n") > _LONG_LINES


def number(value: float, decimals: int | None = None, *, signed: bool = False) -> str:
    """Format with three significant digits, separated thousands and a true minus sign."""
    if decimals is None:
        whole = float(value).is_integer()
        decimals = 0 if whole else sum(abs(value) < limit for limit in (100, 10, 0.1))
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def with_unit(text: str, unit: str) -> str:
    """Append the unit, never broken over two lines."""
    return f"{text}{NBSP}{unit}" if unit else text


def plural(count: int, word: str) -> str:
    """Return the count with its word: 1 step, 2,000 steps."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def share_text(value: float, decimals: int = 0) -> str:
    """Format a share in [0, 1] as a percentage."""
    return with_unit(number(100 * value, decimals), "%")


def span(low: str, high: str) -> str:
    """Join the ends of an interval: "77–85", or "−3 to 4" where a dash could be misread.

    Both stay on one line.
    """
    if "\u2212" in low + high:
        return f"{low}{NBSP}to{NBSP}{high}"
    return f"{low}{NO_BREAK}–{NO_BREAK}{high}"


def value_text(metric: MetricValue, decimals: int | None = None) -> str:
    """Format the value with its unit; percentages have one decimal unless told otherwise."""
    return with_unit(number(metric.value, _decimals(metric, decimals)), metric.unit)


def interval_text(metric: MetricValue, decimals: int | None = None) -> str:
    """Format the interval with its unit, or return an empty text when there is none."""
    if metric.interval is None:
        return ""
    low, high = (number(bound, _decimals(metric, decimals)) for bound in metric.interval)
    return with_unit(span(low, high), metric.unit)


def _decimals(metric: MetricValue, decimals: int | None) -> int | None:
    return 1 if decimals is None and metric.unit == "%" else decimals


def percent_decimals(values: Sequence[float]) -> int:
    """Return the fewest decimals that round no value onto 0, 50 or 100 % by mistake."""
    for decimals in range(3):
        if all(
            (round(v, decimals) == edge) <= (v == edge) for v in values for edge in (0, 50, 100)
        ):
            return decimals
    return 3


def duration(seconds: float) -> str:
    """Format a time for people: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return with_unit(f"{seconds:.1f}", "s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(with_unit(f"{count:,}", unit) for count, unit in parts if count)
