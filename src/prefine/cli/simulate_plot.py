"""The plot of `prefine simulate`: cost against regret as one page without a script.

The page has the picture twice, for wide and for narrow windows, because names need room that a
picture which is made smaller does not have.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from prefine.api.simulating import Simulation
from prefine.report.html import html_page
from prefine.report.svg import Scale, axes, dot, element, lettering, path, picture, rounded, ticks
from prefine.simulator import StrategyResult
from prefine.simulator.summary import label

_SIZES = {"wide": (1080, 560), "narrow": (390, 520)}
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 24, 48
_LETTER, _LINE, _DOT = 6.6, 15, 7  # pixels of lettering and of a dot with room
_TICKS = (1, 1.5, 2, 3, 5, 7)
_RADIUS = {"beaten": 3.5, "choice": 4.5, "recommended": 7}


class _Point(NamedTuple):
    """One strategy in the picture, in pixels; `x_ends` and `y_ends` are its error bars."""

    row: StrategyResult
    kind: str
    x: float
    y: float
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]


class _Box(NamedTuple):
    """The rectangle that lettering, a dot or a bar covers, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)

    def within(self, other: "_Box") -> bool:
        sides = self.left >= other.left and self.right <= other.right
        return sides and self.top >= other.top and self.bottom <= other.bottom


def page(simulation: Simulation, settings: str, *, in_calls: bool) -> str:
    """Return the page.

    Args:
        simulation: The rows and the advice to show.
        settings: The simulated setting, in one line.
        in_calls: Cost is the number of calls.
    """
    advice, rows = simulation.advice, simulation.rows
    chosen = None if advice.row is None else rows[advice.row]
    unit = "calls per prompt" if in_calls else "cost per prompt"
    return html_page(
        "simulate",
        title=f"Ranking strategies: {unit} against regret",
        settings=settings,
        pictures=[_plot(rows, chosen, unit, kind) for kind in _SIZES],
        recommended=f"Recommended: {label(chosen.contestant)}. " if chosen else "",
        reason=advice.reason,
    )


def _plot(
    rows: Sequence[StrategyResult], chosen: StrategyResult | None, unit: str, size: str
) -> Markup:
    width, height = _SIZES[size]
    shown = [row for row in rows if row.cost.mean > 0]
    decades = [math.log10(row.cost.mean) for row in shown] or [0, 1]
    low, high = min(decades), max(decades)
    room = max(0.12 * (high - low), 0.1)
    across = Scale(low - room, high + room, _LEFT, width - _RIGHT, "")
    top = 1.12 * max(row.regret.mean for row in rows) or 1.0
    up = Scale(0, top, height - _BOTTOM, _TOP, "")
    points = [_point(row, across, up, row is chosen) for row in shown]
    # What counts chooses the place of its name first, and is drawn over the rest.
    points.sort(key=lambda point: _RADIUS[point.kind], reverse=True)
    choices = sorted((point for point in points if point.row.choice), key=lambda point: point.x)
    joined = path((rounded(point.x), rounded(point.y)) for point in choices)
    return picture(
        f"plot {size}",
        f"Cost against regret of {len(shown)} strategies",
        axes(across, up, dict(_columns(across)), {v: f"{v:g}" for v in ticks(0, top, 8)}),
        lettering("tick middle", f"{unit} (log scale)", rounded(width / 2), str(height - 8)),
        lettering("tick", "regret: what the winner lacks [sd]", "0", "10"),
        *([element("path", d=joined, class_="curve choice")] if choices else []),
        *(_bars(point) for point in points[::-1]),
        *(_dot(point) for point in points[::-1]),
        *_labels(points, choices, _Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)),
        *(_reading(point, width) for point in points[::-1]),
        viewBox=f"0 0 {width} {height}",
    )


def _point(row: StrategyResult, across: Scale, up: Scale, chosen: bool) -> _Point:
    cost, regret = row.cost, row.regret
    # A cost of 0 has no place on the logarithmic scale, which cuts whatever is off it.
    costs = (max(cost.mean + sign * cost.standard_error, 1e-9) for sign in (-1, 0, 1))
    left, x, right = (across.position(math.log10(value)) for value in costs)
    bottom, y, top = (
        up.position(regret.mean + sign * regret.standard_error) for sign in (-1, 0, 1)
    )
    kind = "recommended" if chosen else "choice" if row.choice else "beaten"
    return _Point(row, kind, x, y, (left, right), (top, bottom))


def _columns(across: Scale) -> Iterator[tuple[float, str]]:
    """Yield the decimal logarithms of round costs, with their names, as far as there is room."""
    last = -math.inf
    for decade in range(math.floor(across.low), math.ceil(across.high) + 1):
        for value in (multiple * 10.0**decade for multiple in _TICKS):
            place = math.log10(value)
            if across.low <= place <= across.high and across.position(place) >= last + 30:
                last = across.position(place)
                yield place, f"{value:g}"


def _bars(point: _Point) -> Markup:
    """Draw one standard error to each side, with caps."""
    x, y = rounded(point.x), rounded(point.y)
    drawn = ""
    for end in map(rounded, point.x_ends):
        drawn += f"M{x} {y}H{end}m0 -3v6"
    for end in map(rounded, point.y_ends):
        drawn += f"M{x} {y}V{end}m-3 0h6"
    return element("path", d=drawn, class_=f"error {point.kind}")


def _dot(point: _Point) -> Markup:
    return dot(point.kind, rounded(point.x), rounded(point.y), _RADIUS[point.kind])


def _reading(point: _Point, width: int) -> Markup:
    """The dot that answers the pointer or the keyboard, and a box with the row's figures."""
    row = point.row
    lines = [
        label(row.contestant),
        f"calls {row.calls.mean:.1f}, depth {row.rounds.mean:.1f}, cost {row.cost.mean:.4g}",
        f"regret {row.regret.mean:.3f} ± {row.regret.standard_error:.3f} sd",
        f"best found {100 * row.p_best.mean:.1f} ± {100 * row.p_best.standard_error:.1f} %",
        *(
            f"{name}: gap {gap.mean:.2f} ± {gap.standard_error:.2f} sd"
            for name, gap in row.gaps.items()
        ),
    ]
    wide, high = _LETTER * max(map(len, lines)) + 20, _LINE * len(lines) + 14
    left = min(max(point.x - wide / 2, 0), width - wide)
    top = point.y - high - 12 if point.y > high + 12 else point.y + 12
    words = [
        element("tspan", words, x=rounded(left + 10), dy=_LINE, class_="" if i else "strong")
        for i, words in enumerate(lines)
    ]
    return element(
        "g",
        element("circle", cx=rounded(point.x), cy=rounded(point.y), r=11, class_="hit"),
        _dot(point),
        element("rect", x=left, y=top, width=wide, height=high, rx=6, class_="reading-box"),
        element("text", *words, x=rounded(left + 10), y=rounded(top + 3), class_="reading"),
        class_="hover",
        tabindex="0",
        aria_label="; ".join(lines),
    )


def _labels(points: Sequence[_Point], choices: Sequence[_Point], plot: _Box) -> Iterator[Markup]:
    """Write each name at the first free place beside its dot; a crowded one is left to hovering."""
    taken = [_around(point.x, point.y, _DOT) for point in points]
    for one, other in pairwise(choices):
        joined = np.linspace((one.x, one.y), (other.x, other.y), 200)
        taken += [_around(x, y, 2) for x, y in joined]
    bars = [_Box(point.x - 3, point.y_ends[0], point.x + 3, point.y_ends[1]) for point in points]
    for point in points:
        name = label(point.row.contestant)
        places = [box for box in _places(point, _LETTER * len(name)) if box.within(plot)]
        # First a place that covers no bar either, then one that does.
        for box in [box for box in places if not any(map(box.meets, bars))] + places:
            if not any(map(box.meets, taken)):
                taken.append(box)
                kind = f"name {point.kind}"
                yield lettering(kind, name, rounded(box.left), rounded(box.bottom - 4))
                break


def _places(point: _Point, width: float) -> Iterator[_Box]:
    """Yield places of a name: right of the dot, left of it, above or below."""
    for away in (0, -12, 12, -24, 24):
        lefts: dict[float, float] = {point.x + 10: away, point.x - 10 - width: away}
        if away:
            lefts[point.x - width / 2] = 1.4 * away
        for left, down in lefts.items():
            top = point.y + down - _LINE / 2
            yield _Box(left, top, left + width, top + _LINE)


def _around(x: float, y: float, room: float) -> _Box:
    return _Box(x - room, y - room, x + room, y + room)
