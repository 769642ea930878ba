"""The report's pictures of a training as data for `static/charts.js`."""

import math
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup
from pydantic import ValidationError

from prefine.config.sections import RunConfig
from prefine.errors import DataError
from prefine.records import Record
from prefine.report.data import ReportData
from prefine.report.svg import element
from prefine.report.text import number, visible
from prefine.report.training import (
    AT_CHANCE,
    CHARTS,
    HELD_OUT_CHARTS,
    FigureValues,
    binned,
    budget_charts,
    figure_values,
    has_room,
    item_values,
)
from prefine.run.config_changes import with_new_defaults
from prefine.run.view import RunView
from prefine.stages.report import training_values

MOST_POINTS = 1_000
"""Points of a curve: enough to look closer at, and little enough for a page of twenty pictures."""
_LIKELIHOOD = "Change of the answers’ log-probability"

Point = tuple[float, float | None]
"""A training step and a value; None is a gap."""


class Series(Record):
    """A curve; `kind` are its classes in charts.css, and `dots` marks each of its points."""

    name: str
    points: tuple[Point, ...]
    kind: str = ""
    dots: bool = False


class ChartBand(Record):
    """An area between two curves."""

    name: str
    low: tuple[Point, ...]
    high: tuple[Point, ...]


class ChartMark(Record):
    """A horizontal line at a value."""

    y: float
    label: str


class ChartData(Record):
    """One picture: curves over an axis, with the words on both.

    `range` is the vertical axis; without one it fits the values.
    """

    title: str
    x: str = "optimizer step"
    y: str = ""
    series: tuple[Series, ...]
    bands: tuple[ChartBand, ...] = ()
    marks: tuple[ChartMark, ...] = ()
    range: tuple[float, float] | None = None


def figure(chart: ChartData) -> Markup:
    """Return the `<figure>` that the script makes a picture of.

    Without it, the last value of each curve is there to read.
    """
    lasts = [f"{one.name or chart.title} {_last(one.points)}" for one in chart.series]
    said = f"At the end: {', '.join(lasts)}"
    return element(
        "figure",
        element("figcaption", chart.title),
        element("p", said + (f" ({chart.y})" if chart.y else ""), class_="chart-end"),
        class_="chart",
        data_chart=visible(chart.model_dump_json(exclude_none=True)),
    )


def charts(run: RunView) -> list[ChartData]:
    """Return the pictures of a run's training, those of the report, as far as it has come.

    Only the logs of training are read, and not what else the report shows.

    Raises:
        DataError: A log or the configuration is damaged.
    """
    sections = with_new_defaults(run.config()) | {"run_dir": run.path}
    try:
        config = RunConfig.model_validate(sections)
    except ValidationError as error:
        raise DataError(f"{run.path / 'config.json'}: {error}") from error
    values = training_values(config, run)
    return charts_of(ReportData(title="", run_name="", policy="", baseline="", stages=(), **values))


def charts_of(data: ReportData) -> list[ChartData]:
    """Return the pictures of a training, as far as it has come.

    Training and held-out items are on one axis.
    """
    if data.training:
        points, _ = binned(data.training, MOST_POINTS)
        found = [_likelihood(data)]
        found += [_chart(one) for one in figure_values(points, CHARTS, data.evaluations)]
    else:
        found = _of_items(data)
    found += [_chart(one, "held-out") for one in figure_values(data.evaluations, HELD_OUT_CHARTS)]
    controller = figure_values(data.budget_points, budget_charts(data.delta_per))
    return found + [_chart(one) for one in controller]


def curve_points(values: Mapping[int, float], factor: float = 1.0) -> tuple[Point, ...]:
    """Return values by step as points, at most 1,000, the last one among them."""
    every = max(1, math.ceil(len(values) / MOST_POINTS))
    steps = list(values)[::-every][::-1]
    return tuple((step, _finite(factor * values[step])) for step in steps)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _last(points: Sequence[Point]) -> str:
    known = [value for _, value in points if value is not None]
    return number(known[-1]) if known else "–"


def _likelihood(data: ReportData) -> ChartData:
    points, unseen = binned(data.training, MOST_POINTS)[0], data.evaluations

    def values(found: Iterable[tuple[int, float]]) -> tuple[Point, ...]:
        return curve_points(dict(found))

    series = tuple(
        Series(
            name=f"{side}{name}",
            kind=f"{name} {side}".strip(),
            points=values((p.step, getattr(p, f"{name}_change")) for p in some),
            dots=bool(side),
        )
        for side, some in (("", points), ("held-out ", unseen))
        for name in ("chosen", "rejected")
        if some
    )
    band = ChartBand(
        name="80 % of chosen",
        low=values((p.step, -p.fall_high) for p in points),
        high=values((p.step, -p.fall_low) for p in points),
    )
    every = [series[0].points, series[1].points, band.low, band.high]
    shown = [0.0, *(value for each in every for _, value in each if value is not None)]
    marks = []
    delta = data.delta_per_answer
    if delta is not None and has_room(-delta, min(shown), max(shown)):
        marks.append(ChartMark(y=-delta, label=f"budget {number(-delta)}"))
    return ChartData(
        title=_LIKELIHOOD,
        y="nats per answer",
        series=series,
        bands=(band,),
        marks=tuple(marks),
    )


def _chart(one: FigureValues, name: str = "training") -> ChartData:
    sides = {name: one.known} | ({"held-out": one.held_out} if one.held_out else {})
    return _picture(one, sides)


def _of_items(data: ReportData) -> list[ChartData]:
    """Pictures of lists, labelled answers, several kinds or a reward model, by their titles."""
    sides = {
        name: {one.figure.title: one for one in item_values(points, rewards=data.reward_model)}
        for name, points in (
            ("training", data.item_training),
            ("held-out", data.item_evaluations),
        )
    }
    titles = dict.fromkeys(title for found in sides.values() for title in found)
    return [
        _picture(
            next(found[title] for found in sides.values() if title in found),
            {name: found[title].known for name, found in sides.items() if title in found},
        )
        for title in titles
    ]


def _picture(one: FigureValues, sides: Mapping[str, Mapping[int, float]]) -> ChartData:
    shown = one.figure
    factor = 100.0 if shown.unit == "%" else 1.0
    return ChartData(
        title=shown.title,
        y=shown.unit,
        series=tuple(
            Series(
                name=name,
                kind=name,
                points=curve_points(values, factor),
                dots=name == "held-out",
            )
            for name, values in sides.items()
        ),
        marks=(ChartMark(y=factor * 0.5, label=""),) if shown.name in AT_CHANCE else (),
        range=(0.0, 100.0) if shown.whole else None,
    )
