"""Curves over training steps; hover readings are made of markup and CSS alone.

A plotting library would add 4.5 MB of script to every report, and its inline styles would force the
page's content security policy open. A hover reading is an invisible column with its own text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from prefine.report.svg import (
    Scale,
    axes,
    dot,
    element,
    lettering,
    line,
    path,
    picture,
    ticks,
)
from prefine.report.text import number, span


@dataclass(frozen=True)
class Curve:
    """One curve; `form` writes a value in the hover reading.

    `steps` are its own, where they are not those of the picture; its points are dots then, or only
    the last one is with `bare`.
    """

    name: str
    kind: str
    values: Sequence[float]
    form: Callable[[float], str]
    steps: Sequence[int] | None = None
    bare: bool = False


@dataclass(frozen=True)
class Band:
    """An area between two curves, and its name in the hover reading."""

    name: str
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class ReferenceLine:
    """A horizontal line at a value, with its label below it."""

    label: str
    kind: str
    value: float


def line_chart(
    label: str,
    steps: Sequence[int],
    curves: Sequence[Curve],
    *,
    axis: Scale,
    band: Band | None = None,
    rule: ReferenceLine | None = None,
    tick_count: int = 5,
    title: str = "",
) -> Markup:
    """Draw curves over training steps: grid, band, rule, a dot at each end, hover readings.

    Args:
        label: What the picture says, for people who do not see it.
        steps: The optimizer step of each point, rising.
        curves: One value per step each.
        axis: The vertical range.
        band: An area behind the curves.
        rule: A horizontal line with a label.
        tick_count: About how many values are named on the vertical axis.
        title: What the vertical axis shows, with its unit.
    """
    everywhere = [*steps, *(step for curve in curves for step in curve.steps or ())]
    first, last = min(everywhere), max(everywhere)
    if first == last:
        first, last = first - 1, last + 1
    across, up = Scale(first, last), Scale(axis.low, axis.high, 100, 0)
    rows = ticks(axis.low, axis.high, tick_count)
    tick_form: Callable[[float], str] = number
    if len(rows) > 1:
        # Neighbours that round to the same text name nothing.
        decimals = max(0, -math.floor(math.log10(rows[1] - rows[0]) + 1e-9))
        tick_form = partial(number, decimals=decimals)
    columns = [step for step in ticks(first, last, 5, whole=True) if step >= 0]
    # Curves are drawn in a box of 1000 by 1000 that is stretched to the picture, because a path
    # knows no percentages.
    x, y = Scale(first, last, 0, 1000, ""), Scale(axis.low, axis.high, 1000, 0, "")

    def points(values: Sequence[float], at: Sequence[int] | None = None) -> list[tuple[str, str]]:
        return [(x(step), y(value)) for step, value in zip(at or steps, values, strict=True)]

    shapes = [
        element("path", d=path(points(curve.values, curve.steps)), class_=f"curve {curve.kind}")
        for curve in curves
    ]
    if band is not None:
        outline = path([*points(band.high), *reversed(points(band.low))]) + "Z"
        shapes.insert(0, element("path", d=outline, class_="band"))
    stretched = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none"}
    marks = [element("svg", *shapes, width="100%", height="100%", **stretched)]
    if rule is not None:
        place = up(rule.value)
        marks.append(line(f"rule {rule.kind}", across.ends, place))
        marks.append(lettering(f"rule-label end {rule.kind}", rule.label, "100%", place, dy=16))
    for curve in curves:
        at = curve.steps or steps[-1:]
        values = curve.values if curve.steps else curve.values[-1:]
        if curve.bare:
            at, values = at[-1:], values[-1:]
        marks += [
            dot(curve.kind, across(step), up(value)) for step, value in zip(at, values, strict=True)
        ]
    marks.append(lettering("axis-title", title, "0", "0", dx=-38, dy=-12))
    marks.append(lettering("axis-title end", "optimizer step", "100%", "100%", dy=34))
    return picture(
        "plot",
        label,
        axes(
            across,
            up,
            {step: number(step, 0) for step in columns},
            {value: tick_form(value) for value in rows},
            grid=False,
        ),
        *marks,
        *(_reading(i, steps, across, up, curves, band) for i in range(len(steps))),
    )


def _reading(
    i: int,
    steps: Sequence[int],
    across: Scale,
    up: Scale,
    curves: Sequence[Curve],
    band: Band | None,
) -> Markup:
    """The column that answers the pointer at one step: a cursor, dots, and the values as text."""
    left, right = 0.0, 100.0
    if i > 0:
        left = across.position((steps[i - 1] + steps[i]) / 2)
    if i + 1 < len(steps):
        right = across.position((steps[i] + steps[i + 1]) / 2)
    x = across(steps[i])
    words = [element("tspan", f"step {number(steps[i], 0)}", class_="strong")]
    here = [(curve, value) for curve in curves for value in _at(curve, steps, i)]
    for curve, value in here:
        said = f"{curve.name} {curve.form(value)}"
        words.append(element("tspan", said, dx=10, class_=f"ink {curve.kind}"))
    if band is not None:
        said = f"{band.name} {span(number(band.low[i]), number(band.high[i]))}"
        words.append(element("tspan", said, dx=10, class_="wide-only"))
    return element(
        "g",
        element(
            "rect",
            x=f"{left:.2f}%",
            width=f"{right - left:.2f}%",
            y=0,
            height="100%",
            class_="hit",
        ),
        line("cursor", x, ("0", "100%")),
        *(dot(curve.kind, x, up(value)) for curve, value in here),
        element("text", *words, x=0, y=-9, class_="reading"),
        class_="hover",
    )


def _at(curve: Curve, steps: Sequence[int], i: int) -> list[float]:
    """The curve's value at the picture's step `i`, if it has one there."""
    if curve.steps is None:
        return [curve.values[i]]
    return [
        value for step, value in zip(curve.steps, curve.values, strict=True) if step == steps[i]
    ]
