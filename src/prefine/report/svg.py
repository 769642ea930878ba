"""The report's pictures: inline SVG, drawn here, with hover readings made of markup and CSS alone.

A plotting library would add 4.5 MB of script to every report, and its inline styles would force the
page's content security policy open. These pictures need no script at all: horizontal and vertical
positions are percentages, so a picture fills any width while its lettering keeps its size; a hover
reading is an invisible column with its own text.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup, escape

from prefine.records import MetricValue

NBSP = "\u00a0"
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """The text with everything made visible that could break a page or reorder it: control characters and the like.

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
    category = unicodedata.category(c)
    if category in ("Cs", "Cc") or code & 0xFFFE == 0xFFFE:
        return "\ufffd"
    return c


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element as markup; children that are not markup are escaped. `class_` is class, `aria_label` aria-label."""
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(_attribute(value)))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inner = "".join(
        child if isinstance(child, Markup) else escape(visible(child)) for child in children
    )
    return Markup(f"<{name}{''.join(parts)}>{inner}</{name}>")


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def number(value: float, decimals: int | None = None, *, signed: bool = False) -> str:
    """A number for people: three digits that matter, thousands separated, a true minus sign."""
    if decimals is None:
        size = abs(value)
        decimals = (
            0
            if size >= 100 or value == int(value)
            else 1
            if size >= 10
            else 2
            if size >= 0.1
            else 3
        )
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def with_unit(text: str, unit: str) -> str:
    """The text with its unit, never broken over two lines."""
    return f"{text}{NBSP}{unit}" if unit else text


def plural(count: int, word: str) -> str:
    """The count with its word: 1 step, 2,000 steps."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def share_text(value: float) -> str:
    """A share in [0, 1] as a whole percentage."""
    return with_unit(number(100 * value, 0), "%")


def span(low: str, high: str) -> str:
    """An interval in words: "77–85", and "−3 to 4" where a dash beside a minus sign could be misread."""
    return f"{low} to {high}" if "\u2212" in low + high else f"{low}–{high}"


def value_text(metric: MetricValue, decimals: int | None = None) -> str:
    """The value with its unit; percentages with one decimal."""
    if decimals is None and metric.unit == "%":
        decimals = 1
    return with_unit(number(metric.value, decimals), metric.unit)


def interval_text(metric: MetricValue, decimals: int | None = None) -> str:
    """The interval with its unit, or an empty text when there is none."""
    if metric.interval is None:
        return ""
    if decimals is None and metric.unit == "%":
        decimals = 1
    low, high = (number(bound, decimals) for bound in metric.interval)
    return with_unit(span(low, high), metric.unit)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """About `count` round numbers in [low, high]."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / count))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count), 10)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _decimals(values: Sequence[float]) -> int | None:
    """As many as it takes to tell neighbouring ticks apart."""
    if len(values) < 2:
        return None
    return max(0, -math.floor(math.log10(abs(values[1] - values[0])) + 1e-9))


@dataclass(frozen=True)
class Axis:
    """A range of values laid over 0–100 % of a picture's width, or of its height upside down."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.06) -> "Axis":
        """The range of the values and a little more; a single value gets room on both sides."""
        low, high = min(values), max(values)
        room = (high - low) * margin or max(abs(low) * 0.1, 0.5)
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """Where the value lies, 0 at `low` and 1 at `high`, cut at both ends."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def x(self, value: float) -> str:
        """The horizontal position."""
        return f"{100 * self.share(value):.2f}%"

    def y(self, value: float) -> str:
        """The vertical position: larger is higher."""
        return f"{100 - 100 * self.share(value):.2f}%"


@dataclass(frozen=True)
class Line:
    """One curve. `kind` is a CSS class that sets colour and dashes; `form` writes a value for the reading."""

    name: str
    kind: str
    values: tuple[float, ...]
    form: Callable[[float], str]


@dataclass(frozen=True)
class Band:
    """An area between two curves, and its name in the reading."""

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal line at a value, with its label below it."""

    label: str
    kind: str
    value: float


def line_chart(
    label: str,
    steps: Sequence[float],
    lines: Sequence[Line],
    *,
    axis: Axis,
    band: Band | None = None,
    rules: Sequence[ReferenceLine] = (),
    tick_count: int = 5,
    tick_form: Callable[[float], str] = number,
) -> Markup:
    """Curves over training steps: grid, band, rules, curves with a dot at the end, hover readings.

    Args:
        label: What the picture says, for people who do not see it.
        steps: The optimizer step of each point, rising.
        lines: The curves, each with one value per step.
        axis: The vertical range.
        band: An area behind the curves.
        rules: Horizontal lines with labels.
        tick_count: About how many values are named on the vertical axis.
        tick_form: How these are written.
    """
    across = Axis(steps[0], steps[-1]) if len(steps) > 1 else Axis(steps[0] - 1, steps[0] + 1)
    named = ticks(axis.low, axis.high, tick_count)
    # Neighbours that round to the same text name nothing.
    form = partial(number, decimals=_decimals(named)) if tick_form is number else tick_form
    grid = [
        element(
            "line",
            x1="0",
            x2="100%",
            y1=axis.y(t),
            y2=axis.y(t),
            class_="zero" if t == 0 else "grid",
        )
        + element("text", form(t), x="-8", y=axis.y(t), dy="4", class_="tick end")
        for t in named
    ]
    grid += [
        element("text", number(t, 0), x=across.x(t), y="100%", dy="20", class_="tick middle")
        for t in ticks(across.low, across.high, 5, whole=True)
        if t >= 0
    ]

    def points(values: Sequence[float]) -> list[str]:
        return [
            f"{1000 * across.share(s):.1f} {1000 - 1000 * axis.share(v):.1f}"
            for s, v in zip(steps, values, strict=True)
        ]

    shapes = []
    if band is not None:
        outline = "M" + "L".join([*points(band.high), *reversed(points(band.low))]) + "Z"
        shapes.append(element("path", d=outline, class_="band"))
    shapes += [
        element("path", d="M" + "L".join(points(line.values)), class_=f"curve {line.kind}")
        for line in lines
    ]
    stretched = element(
        "svg",
        *shapes,
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
    )
    marks = [
        element(
            "line",
            x1="0",
            x2="100%",
            y1=axis.y(rule.value),
            y2=axis.y(rule.value),
            class_=f"rule {rule.kind}",
        )
        + element(
            "text",
            rule.label,
            x="100%",
            y=axis.y(rule.value),
            dy="16",
            class_=f"rule-label end {rule.kind}",
        )
        for rule in rules
    ]
    ends = [
        element(
            "circle",
            cx=across.x(steps[-1]),
            cy=axis.y(line.values[-1]),
            r="4",
            class_=f"dot {line.kind}",
        )
        for line in lines
    ]
    readings = [_reading(i, steps, across, axis, lines, band) for i in range(len(steps))]
    return element(
        "svg",
        *grid,
        stretched,
        *marks,
        *ends,
        *readings,
        class_="plot",
        role="img",
        aria_label=label,
    )


def _reading(
    i: int,
    steps: Sequence[float],
    across: Axis,
    axis: Axis,
    lines: Sequence[Line],
    band: Band | None,
) -> Markup:
    """The column that answers the pointer at one step: a cursor, dots, and the values in one line of text."""
    left = across.share((steps[i - 1] + steps[i]) / 2) if i else 0.0
    right = across.share((steps[i] + steps[i + 1]) / 2) if i + 1 < len(steps) else 1.0
    x = across.x(steps[i])
    dots = [
        element("circle", cx=x, cy=axis.y(line.values[i]), r="4", class_=f"dot {line.kind}")
        for line in lines
    ]
    words = [element("tspan", f"step {number(steps[i], 0)}", class_="strong")]
    words += [
        element(
            "tspan", f"{line.name} {line.form(line.values[i])}", dx="10", class_=f"ink {line.kind}"
        )
        for line in lines
    ]
    if band is not None:
        low, high = number(band.low[i]), number(band.high[i])
        words.append(
            element("tspan", f"{band.name} {span(low, high)}", dx="10", class_="wide-only")
        )
    return element(
        "g",
        element(
            "rect",
            x=f"{100 * left:.2f}%",
            y="0",
            width=f"{100 * (right - left):.2f}%",
            height="100%",
        ),
        element("line", x1=x, x2=x, y1="0", y2="100%", class_="cursor"),
        *dots,
        element("text", *words, x="0", y="-9", class_="reading"),
        class_="hover",
    )


def interval_plot(
    label: str, metric: MetricValue, *, axis: Axis, middle: float | None = None
) -> Markup:
    """One dot with its interval on a common scale, and the line that decides (for a win rate 50)."""
    parts = _scale(axis, middle)
    if metric.interval is not None:
        low, high = metric.interval
        parts.append(
            element("line", x1=axis.x(low), x2=axis.x(high), y1="50%", y2="50%", class_="whisker")
        )
        parts += [
            element(
                "line", x1=axis.x(end), x2=axis.x(end), y1="32%", y2="68%", class_="whisker cap"
            )
            for end in (low, high)
        ]
    parts.append(element("circle", cx=axis.x(metric.value), cy="50%", r="6", class_="dot after"))
    return element("svg", *parts, class_="track", role="img", aria_label=label)


def _scale(axis: Axis, middle: float | None) -> list[Markup]:
    lines = [
        element("line", x1=axis.x(t), x2=axis.x(t), y1="0", y2="100%", class_="grid")
        for t in (axis.low, (axis.low + axis.high) / 2, axis.high)
    ]
    if middle is not None:
        lines.append(
            element(
                "line", x1=axis.x(middle), x2=axis.x(middle), y1="0", y2="100%", class_="decides"
            )
        )
    return lines


def scale_labels(axis: Axis, values: Sequence[float], form: Callable[[float], str]) -> Markup:
    """The numbers over a column of tracks. Decorative: every row says its values in words."""
    texts = [
        element("text", form(v), x=axis.x(v), y="14", class_="tick " + _anchor(axis.share(v)))
        for v in values
    ]
    return element("svg", *texts, class_="scale", aria_hidden="true")


def _anchor(share: float) -> str:
    return "start" if share <= 0 else "end" if share >= 1 else "middle"


def dumbbell(label: str, before: MetricValue, after: MetricValue, *, axis: Axis) -> Markup:
    """Two dots joined by a line: hollow before, full after, the line dashed where the value went down."""
    parts = _scale(axis, None)
    for metric, kind in ((before, "before"), (after, "after")):
        if metric.interval is not None:
            low, high = metric.interval
            parts.append(
                element(
                    "line",
                    x1=axis.x(low),
                    x2=axis.x(high),
                    y1="50%",
                    y2="50%",
                    class_=f"whisker pale {kind}",
                )
            )
    way = "up" if after.value >= before.value else "down"
    parts.append(
        element(
            "line",
            x1=axis.x(before.value),
            x2=axis.x(after.value),
            y1="50%",
            y2="50%",
            class_=f"change {way}",
        )
    )
    parts.append(element("circle", cx=axis.x(before.value), cy="50%", r="6", class_="dot before"))
    parts.append(
        element("circle", cx=axis.x(after.value), cy="50%", r="6", class_=f"dot after {way}")
    )
    return element("svg", *parts, class_="track", role="img", aria_label=label)


def stacked_bar(label: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
    """One bar cut by (name, count, kind); a part too small for its number leaves it to the text beside the bar."""
    total = sum(count for _, count, _ in parts) or 1
    shapes, start = [], 0.0
    for name, count, kind in parts:
        share = count / total
        if count:
            shapes.append(
                element(
                    "g",
                    element("title", f"{count:,} {name}"),
                    element(
                        "rect",
                        x=f"{100 * start:.3f}%",
                        width=f"{100 * share:.3f}%",
                        height="100%",
                        class_=kind,
                    ),
                    *([_bar_number(count, start + share / 2, kind)] if share >= 0.08 else []),
                )
            )
        start += share
    return element("svg", *shapes, class_="stack", role="img", aria_label=label)


def _bar_number(count: int, centre: float, kind: str) -> Markup:
    return element(
        "text",
        f"{count:,}",
        x=f"{100 * centre:.3f}%",
        y="50%",
        dy="4.5",
        class_=f"on middle {kind}",
    )


def meter(share: float, kind: str = "") -> Markup:
    """A thin bar, filled by `share` in [0, 1]. Decorative: its number stands beside it."""
    filled = f"{100 * min(1.0, max(0.0, share)):.2f}%"
    return element(
        "svg",
        element("rect", width="100%", height="100%", rx="3", class_="empty"),
        element("rect", width=filled, height="100%", rx="3", class_=f"full {kind}".strip()),
        class_="meter",
        aria_hidden="true",
    )


def waffle(label: str, parts: Sequence[tuple[str, int, str]]) -> Markup:
    """A hundred squares shared out by (name, count, kind) with largest remainders: of 100 prompts, so many won."""
    total = sum(count for _, count, _ in parts) or 1
    exact = [100 * count / total for _, count, _ in parts]
    squares = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: squares[i] - exact[i])
    for i in by_remainder[: 100 - sum(squares)]:
        squares[i] += 1
    kinds = [kind for (_, _, kind), count in zip(parts, squares, strict=True) for _ in range(count)]
    cells = [
        element("rect", x=i % 20 * 15, y=i // 20 * 15, width=12, height=12, rx=2.5, class_=kind)
        for i, kind in enumerate(kinds)
    ]
    return element(
        "svg", *cells, viewBox="0 0 297 72", class_="waffle", role="img", aria_label=label
    )
