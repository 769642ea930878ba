"""Inline SVG from scales, axes and marks: for the report, the plot of `prefine simulate`, the docs.

Positions are texts: percentages, so that a picture fills any width while its lettering keeps its
size, or pixels of a fixed box. Colours and dashes come from CSS classes, named `kind` here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from markupsafe import Markup, escape

from prefine.report.text import visible

Ends = str | tuple[str, str]
"""A position, or the two between which a line is drawn."""


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Return one element; children that are not markup are escaped.

    `class_` is class, `aria_label` aria-label; what is None is left out.
    """
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


def picture(kind: str, label: str, *children: Markup, **attributes: str | float) -> Markup:
    """Return an SVG; without a label it is decorative, and hidden from screen readers."""
    spoken = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return element("svg", *children, class_=kind, **spoken, **attributes)


def rounded(value: float, decimals: int = 1) -> str:
    """Round half up, whatever the last bit of the machine's arithmetic says."""
    near = Decimal(f"{value:.9f}").quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)
    return str(abs(near) if near == 0 else near)


@dataclass(frozen=True)
class Scale:
    """Map values from `low` to `high` to positions from `start` to `end`, cut at both ends."""

    low: float
    high: float
    start: float = 0
    end: float = 100
    unit: str = "%"

    @classmethod
    def around(cls, values: Sequence[float], margin: float = 0.06) -> "Scale":
        """Return a scale with some room around the values; around a single one, too."""
        low, high = min(values), max(values)
        room = (high - low) * margin or max(abs(low) * 0.1, 0.5)
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """Return where the value lies, 0 at `low` and 1 at `high`."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def position(self, value: float) -> float:
        """Return the value's position as a number."""
        return self.start + self.share(value) * (self.end - self.start)

    def __call__(self, value: float) -> str:
        """Return the value's position as an attribute."""
        return rounded(self.position(value), 2 if self.unit else 1) + self.unit

    @property
    def ends(self) -> tuple[str, str]:
        """The first and the last value of the scale."""
        return self(self.low), self(self.high)


def line(kind: str, x: Ends, y: Ends) -> Markup:
    """Draw a straight line; a single position is that of both ends."""
    x1, x2 = x if isinstance(x, tuple) else (x, x)
    y1, y2 = y if isinstance(y, tuple) else (y, y)
    return element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=kind)


def dot(kind: str, x: str, y: str, radius: float = 4) -> Markup:
    """Draw a filled circle."""
    return element("circle", cx=x, cy=y, r=radius, class_=f"dot {kind}")


def lettering(
    kind: str, words: str, x: str, y: str, *, dx: float | None = None, dy: float | None = None
) -> Markup:
    """Write a text at a position, moved by so many pixels."""
    return element("text", words, x=x, y=y, dx=dx, dy=dy, class_=kind)


def path(points: Iterable[tuple[str, str]]) -> str:
    """Return the `d` of a path through the points."""
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers in [low, high]."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / count))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= count), 10)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def axes(
    across: Scale,
    up: Scale,
    columns: Mapping[float, str],
    rows: Mapping[float, str],
    *,
    grid: bool = True,
) -> Markup:
    """Draw and name round values: a horizontal line for each row and, in a grid, one per column."""
    left, bottom = across.ends[0], up.ends[0]
    parts = [
        line("grid" if value else "zero", across.ends, up(value))
        + lettering("tick end", name, left, up(value), dx=-8, dy=4)
        for value, name in rows.items()
    ]
    parts += [
        (line("grid", across(value), up.ends) if grid else Markup())
        + lettering("tick middle", name, across(value), bottom, dy=18)
        for value, name in columns.items()
    ]
    return Markup().join(parts)
