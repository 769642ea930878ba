"""The page of a sweep: its table, win rate against held-out fall, and the hills."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from prefine.records import MetricValue
from prefine.report.html import html_page
from prefine.report.svg import Scale, axes, dot, element, lettering, path, picture, ticks
from prefine.sweep.growth import Growth, growth_words, is_of
from prefine.sweep.results import (
    Hill,
    SettingResult,
    SweepResult,
    hill_words,
    number_at,
    place_of,
    with_error,
    with_interval,
)

_WIDTH, _HEIGHT = 620, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 30, 50


def page(result: SweepResult, title: str) -> str:
    """Return the page; the same result gives the same text."""
    return html_page(
        "sweep",
        title=title,
        result=result,
        pictures=pictures(result),
        figure=with_interval,
        spread=with_error,
        hill_words=hill_words,
        growth_words=growth_words,
    )


def pictures(result: SweepResult) -> list[Markup]:
    """Return the pictures of a sweep: win rate against fall, hills, and over the items."""
    return [
        *_frontier(result),
        *(_hill(result, hill) for hill in result.hills),
        *(_growth(result, growth) for growth in result.growths),
    ]


def _frontier(result: SweepResult) -> list[Markup]:
    """Win rate against the fall of held-out answers, a dot for each setting that has both."""
    shown = [one for one in result.settings if one.win_rate and one.held_out_fall]
    if len(shown) < 2:
        return []
    points = [(_value(one.held_out_fall), one) for one in shown]
    return [
        _plot(
            result,
            points,
            "Fall of held-out chosen answers [nats]",
            f"Win rate against held-out fall of {len(points)} settings",
        )
    ]


def _hill(result: SweepResult, hill: Hill) -> Markup:
    """Win rate over one setting, with the parabola."""
    points = [
        (place_of(value, log=hill.log), one)
        for one in result.settings
        if one.win_rate is not None and (value := number_at(one.values, hill.path)) is not None
    ]
    name = f"log10 of {hill.path}" if hill.log else hill.path
    curve = None
    if hill.coefficients is not None:
        a, b, c = hill.coefficients

        def curve(x: float) -> float:
            return a + b * x + c * x * x

    return _plot(result, points, name, f"Win rate over {hill.path}", curve=curve)


def _growth(result: SweepResult, growth: Growth) -> Markup:
    """Win rate over the number of items trained on, with the curve towards its limit."""
    points = [(one.items, one) for one in result.settings if is_of(growth, one.values)]
    label = f"Win rate over the items trained on; {growth_words(growth)}"
    return _plot(result, points, "Items trained on", label, curve=growth.at)


def _plot(
    result: SweepResult,
    points: Sequence[tuple[float, SettingResult]],
    across_name: str,
    label: str,
    curve: Callable[[float], float] | None = None,
) -> Markup:
    ends = [end for _, one in points for end in _ends(one)]
    across = _scale([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _scale(ends, _HEIGHT - _BOTTOM, _TOP)
    marks = []
    if curve is not None:
        # Between the results: beyond them, a curve over a number of items may not be defined.
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        drawn = [(x, curve(x)) for x in (low + (high - low) * i / 80 for i in range(81))]
        inside = [(across(x), up(y)) for x, y in drawn if up.low <= y <= up.high]
        if len(inside) > 1:
            marks.append(element("path", d=path(inside), class_="curve chosen"))
    for x, one in points:
        low, high = _ends(one)
        kind = "down" if one.name == result.best else "after"
        if one.name == result.baseline:
            kind = "before"
        bar = element("path", d=path([(across(x), up(low)), (across(x), up(high))]), class_="bar")
        words = f"{one.name}: {with_interval(one.win_rate)} %"
        marks.append(
            element(
                "g", bar, dot(kind, across(x), up(_value(one.win_rate)), 5), element("title", words)
            )
        )
    return picture(
        "plot",
        label,
        axes(
            across,
            up,
            {value: f"{value:g}" for value in ticks(across.low, across.high, 6)},
            {value: f"{value:g}" for value in ticks(up.low, up.high, 6)},
        ),
        lettering("tick middle", across_name, str(_WIDTH / 2), str(_HEIGHT - 10)),
        lettering("tick", "Win rate [%]", "0", "14"),
        *marks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    )


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    around = Scale.around(values)
    return Scale(around.low, around.high, start, end, "")


def _value(value: MetricValue | None) -> float:
    assert value is not None, "only settings with both are drawn"
    return value.value


def _ends(one: SettingResult) -> tuple[float, float]:
    assert one.win_rate is not None, "only settings with a win rate are drawn"
    return one.win_rate.interval or (one.win_rate.value, one.win_rate.value)
