"""The plot of `prefine simulate`: cost against regret as one page that needs nothing beside itself."""

import html
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from prefine.api.simulating import Simulation
from prefine.simulator import StrategyResult
from prefine.simulator.summary import label

WIDTH, HEIGHT = 1080, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 84, 92
_LETTER, _LINE, _DOT = 6.3, 15, 7  # pixels of lettering and of a dot with room
_INK, _PALE, _FRONTIER, _CHOSEN = "#1f2328", "#8b949e", "#0b5cad", "#c2410c"
_TICKS = (1, 1.5, 2, 3, 5, 7)


class _Spot(NamedTuple):
    """A point in pixels."""

    x: float
    y: float


class _Box(NamedTuple):
    """What lettering or a dot covers, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def page(simulation: Simulation, settings: str, *, in_calls: bool) -> str:
    """The page, with its script in it.

    Args:
        simulation: What to show.
        settings: What was simulated, in one line.
        in_calls: Whether cost is the number of calls.
    """
    rows = simulation.rows
    figure = go.Figure()
    low, high, top = _ranges(rows)
    choices = [row for row in rows if row.choice]
    chosen = [rows[simulation.advice.row]] if simulation.advice.row is not None else []
    rest = [row for row in rows if not row.choice and row not in chosen]
    choices.sort(key=lambda row: row.cost.mean)
    groups = [
        ("beaten, or not clearly better", rest, _PALE, "markers", 7),
        ("choice at some limit", choices, _FRONTIER, "lines+markers", 9),
        ("recommended", chosen, _CHOSEN, "markers", 14),
    ]
    for name, members, colour, mode, size in groups:
        if members:
            figure.add_trace(_trace(name, members, colour, mode, size))
    # The important ones choose their places first.
    order = [*chosen, *(row for row in choices if row not in chosen), *rest]
    for row, anchor, shift in _labels(order, low, high, top):
        colour = _CHOSEN if row in chosen else _FRONTIER if row.choice else "#57606a"
        figure.add_annotation(
            x=math.log10(row.cost.mean),
            y=row.regret.mean,
            text=html.escape(label(row.contestant)),
            showarrow=False,
            xanchor=anchor,
            xshift=shift.x,
            yshift=shift.y,
            font={"size": 12, "color": colour},
        )
    unit = "calls per prompt" if in_calls else "cost per prompt"
    figure.update_layout(
        template="simple_white",
        width=WIDTH,
        height=HEIGHT,
        margin={"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        title={
            "text": f"Ranking strategies: {unit} against regret",
            "subtitle": {"text": html.escape(settings)},
        },
        font={"family": "system-ui, sans-serif", "color": _INK, "size": 13},
        legend={"orientation": "h", "x": 0, "y": -0.12, "yanchor": "top"},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(
        type="log",
        range=[low, high],
        title=f"{unit} (log scale)",
        tickvals=list(_ticks(low, high)),
        ticktext=[f"{tick:g}" for tick in _ticks(low, high)],
        gridcolor="#eaeef2",
        showgrid=True,
    )
    figure.update_yaxes(
        range=[0, top],
        title="regret: what the winner lacks [sd]",
        gridcolor="#eaeef2",
        showgrid=True,
    )
    drawn: str = figure.to_html(
        include_plotlyjs=True, full_html=False, config={"displaylogo": False}
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>prefine '
        "simulate</title>\n"
        f"<style>body{{margin:24px auto;max-width:{WIDTH}px;font:15px/1.5 "
        f"system-ui,sans-serif;color:{_INK};"
        "background:#fff}</style></head>\n<body>\n"
        f"{drawn}\n<p>{html.escape(_words(simulation))}</p>\n"
        "<p>Bars are one standard error. The line joins what to choose at some limit: the "
        "cheapest strategy of the "
        "frontier that nothing within the limit beats by more than two standard errors of the "
        "difference, world by "
        "world.</p>\n</body></html>\n"
    )


def _words(simulation: Simulation) -> str:
    advice = simulation.advice
    chosen = (
        ""
        if advice.row is None
        else f"Recommended: {label(simulation.rows[advice.row].contestant)}. "
    )
    return chosen + advice.reason


def _trace(
    name: str, rows: Sequence[StrategyResult], colour: str, mode: str, size: int
) -> go.Scatter:
    return go.Scatter(
        name=name,
        mode=mode,
        x=[row.cost.mean for row in rows],
        y=[row.regret.mean for row in rows],
        error_x=_bars([row.cost.standard_error for row in rows], colour),
        error_y=_bars([row.regret.standard_error for row in rows], colour),
        marker={"color": colour, "size": size},
        line={"color": colour, "width": 1.5},
        hovertext=[_reading(row) for row in rows],
        hoverinfo="text",
    )


def _bars(errors: list[float], colour: str) -> dict[str, object]:
    return {"type": "data", "array": errors, "color": colour, "thickness": 1.2, "width": 3}


def _reading(row: StrategyResult) -> str:
    lines = [
        f"<b>{html.escape(label(row.contestant))}</b>",
        f"calls {row.calls.mean:.1f}, depth {row.rounds.mean:.1f}, cost {row.cost.mean:.4g}",
        f"regret {row.regret.mean:.3f} ± {row.regret.standard_error:.3f} sd",
        f"best found {100 * row.p_best.mean:.1f} ± {100 * row.p_best.standard_error:.1f} %",
        *(
            f"{name}: gap {gap.mean:.2f} ± {gap.standard_error:.2f} sd"
            for name, gap in row.gaps.items()
        ),
    ]
    return "<br>".join(lines)


def _ranges(rows: Sequence[StrategyResult]) -> tuple[float, float, float]:
    """The horizontal range in decades, and the top of the vertical one; with room for lettering."""
    decades = [math.log10(row.cost.mean) for row in rows if row.cost.mean > 0]
    low, high = min(decades, default=0.0), max(decades, default=1.0)
    room = max(0.12 * (high - low), 0.1)
    return low - room, high + room, 1.12 * max(row.regret.mean for row in rows) or 1.0


def _ticks(low: float, high: float) -> Iterator[float]:
    for decade in range(math.floor(low), math.ceil(high) + 1):
        yield from (m * 10.0**decade for m in _TICKS if low <= math.log10(m * 10.0**decade) <= high)


def _labels(
    rows: Sequence[StrategyResult], low: float, high: float, top: float
) -> Iterator[tuple[StrategyResult, str, _Spot]]:
    """Where each row's name goes: the first place beside its dot that is free. A crowded one is left to hovering."""
    plot = _Box(0, 0, WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM)
    spots = {
        id(row): _Spot(
            (math.log10(row.cost.mean) - low) / (high - low) * plot.right,
            (1 - row.regret.mean / top) * plot.bottom,
        )
        for row in rows
        if row.cost.mean > 0
    }
    taken = [_Box(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in spots.values()]
    joined = sorted(
        (spots[id(row)] for row in rows if row.choice and id(row) in spots), key=lambda spot: spot.x
    )
    taken += [
        _Box(x - 2, y - 2, x + 2, y + 2)
        for one, other in pairwise(joined)
        for x, y in _between(one, other)
    ]
    for row in rows:
        if id(row) not in spots:
            continue
        spot, width = spots[id(row)], _LETTER * len(label(row.contestant))
        for anchor, shift in _places():
            left = spot.x + shift.x - {"left": 0.0, "center": width / 2, "right": width}[anchor]
            middle = spot.y - shift.y
            box = _Box(left, middle - _LINE / 2, left + width, middle + _LINE / 2)
            inside = box.left >= plot.left and box.right <= plot.right and box.top >= plot.top
            if (
                inside
                and box.bottom <= plot.bottom
                and not any(box.meets(other) for other in taken)
            ):
                taken.append(box)
                yield row, anchor, shift
                break


def _between(one: _Spot, other: _Spot) -> Iterator[_Spot]:
    """Points on the line between two spots, every few pixels."""
    count = int(math.dist(one, other) / 4) + 1
    for i in range(1, count):
        yield _Spot(one.x + (other.x - one.x) * i / count, one.y + (other.y - one.y) * i / count)


def _places() -> Iterator[tuple[str, _Spot]]:
    for up in (0, 12, -12, 24, -24):
        yield "left", _Spot(10, up)
        yield "right", _Spot(-10, up)
        if up:
            yield "center", _Spot(0, 1.4 * up)
