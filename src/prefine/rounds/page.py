"""The report of all rounds: their table, and each figure as a curve over the rounds."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from prefine.atomic import write_text
from prefine.records import MetricValue
from prefine.report.html import html_page
from prefine.report.svg import Scale, axes, dot, element, lettering, path, picture, ticks
from prefine.rounds.configs import RoundsPlan
from prefine.rounds.figures import INITIAL
from prefine.rounds.results import REPORT, RoundsResult, cell, rate, results, rows_of

_WIDTH, _HEIGHT = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 30, 48
_ASIDE = 0.05
RESULT = "rounds.json"


class RoundLine(NamedTuple):
    """The values of a figure over rounds; `kind` is its class in the stylesheet."""

    name: str
    kind: str
    points: list[tuple[int, MetricValue]]


def write_page(rounds: RoundsPlan) -> None:
    """Write `report.html` and `rounds.json` of the rounds that have ended."""
    result = results(rounds)
    folder = rounds.config.run_dir
    write_text(folder / RESULT, result.model_dump_json(indent=1, exclude={"report"}) + "\n")
    write_text(folder / REPORT, page(result, f"{rounds.config.report.title}: rounds"))


def page(result: RoundsResult, title: str) -> str:
    """Return the page; the same result gives the same text."""
    heading, *rows = rows_of(result)
    return html_page(
        "rounds",
        title=title,
        result=result,
        heading=heading,
        rows=rows,
        links=[f"{one.name}/{REPORT}" for one in result.rounds],
        pictures=pictures(result),
    )


def pictures(result: RoundsResult) -> list[Markup]:
    """Return a picture of each figure over the rounds."""
    return [curve(what, lines, result.count) for what, lines in _lines(result)]


def _lines(result: RoundsResult) -> list[tuple[str, list[RoundLine]]]:
    """Return each title with its unit, and the lines to draw; without any it is left out."""
    figures = [one.figures for one in result.rounds]

    def over(name: str, which: str) -> tuple[str, list[RoundLine]]:
        lines = []
        for role, kind in (("judge", "chosen"), ("gold", "rejected")):
            found = [(one.round, rate(getattr(one, which), role)) for one in figures]  # type: ignore[arg-type]
            lines.append(RoundLine(role, kind, [(x, y) for x, y in found if y is not None]))
        return f"Win rate over {name} [%]", lines

    def single(title: str, which: str) -> tuple[str, list[RoundLine]]:
        first = [(INITIAL, getattr(one, f"{which}_initial", None)) for one in figures[:1]]
        found = [*first, *((one.round, getattr(one, which)) for one in figures)]
        return title, [RoundLine("", "chosen", [(x, y) for x, y in found if y is not None])]

    calls = [
        (one.figures.round, MetricValue(name="calls", value=one.usage.calls, n=one.usage.calls))
        for one in result.rounds
    ]
    cost = [
        (one.figures.round, MetricValue(name="cost", value=one.usage.cost, n=one.usage.calls))
        for one in result.rounds
        if one.usage.cost
    ]
    every = [
        over("the initial policy", "over_initial"),
        over("the round before", "over_previous"),
        single("Gold score", "gold"),
        single("Gold: change to the best round before", "gold_over_best"),
        single("Judge and gold agree [%]", "agreement"),
        single("Length of answers [characters]", "length"),
        single("Diversity of two answers", "diversity"),
        single("Fall of the initial policy's chosen answers [nats]", "fall"),
        ("Calls", [RoundLine("", "chosen", calls)]),
        ("Cost", [RoundLine("", "chosen", cost)]),
    ]
    return [(what, shown) for what, lines in every if (shown := [ln for ln in lines if ln.points])]


def curve(what: str, lines: Sequence[RoundLine], count: int) -> Markup:
    """Draw lines over the rounds, each point with its interval."""
    points = [point for one in lines for point in one.points]
    first, last = min(x for x, _ in points), max(count, *(x for x, _ in points))
    across = Scale(first - 0.15, last + 0.15, _LEFT, _WIDTH - _RIGHT, "")
    ends = [end for _, value in points for end in value.interval or (value.value, value.value)]
    around = Scale.around(ends)
    up = Scale(around.low, around.high, _HEIGHT - _BOTTOM, _TOP, "")
    marks: list[Markup] = []
    for number, one in enumerate(lines):
        # Beside one another, so that no interval hides another one.
        places = [(across(x + _ASIDE * number), up(value.value)) for x, value in one.points]
        if len(places) > 1:
            marks.append(element("path", d=path(places), class_=f"curve {one.kind}"))
        for (x, value), (at, height) in zip(one.points, places, strict=True):
            bar = []
            if value.interval is not None:
                between = path([(at, up(end)) for end in value.interval])
                bar = [element("path", d=between, class_="bar")]
            words = f"{_round(x)}: {f'{one.name} ' if one.name else ''}{cell(value, 2)}"
            kind = "before" if x == INITIAL else one.kind
            point = dot(kind, at, height, 4.5)
            marks.append(element("g", *bar, point, element("title", words)))
    named = ", ".join(one.name for one in lines if one.name)
    title = f"{what}{f': {named}' if named else ''}"
    return picture(
        "plot",
        title,
        axes(
            across,
            up,
            {float(x): _round(x) for x in sorted({x for x, _ in points})},
            {value: f"{value:g}" for value in ticks(up.low, up.high, 5)},
        ),
        lettering("tick", what, "0", "14"),
        *marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    )


def _round(number: int) -> str:
    return "initial" if number == INITIAL else f"round {number}"
