"""The page of a sweep: its table, win rate against held-out fall, and the hills."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from prefine.records import MetricValue
from prefine.report.html import html_page
from prefine.report.svg import Scale, axes, dot, element, lettering, path, picture, ticks
from prefine.sweep.growth import Growth, is_of
from prefine.sweep.results import (
    Hill,
    SettingResult,
    SweepResult,
    number_at,
    place_of,
)
from prefine.sweep.text import (
    baseline_words,
    growth_words,
    hill_words,
    name_words,
    rows_of,
    setting_words,
    with_interval,
)

_WIDTH, _HEIGHT = 620, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 30, 50


class Picture(NamedTuple):
    """A drawing with its title, and a sentence on the curve in it, or nothing."""

    title: str
    drawing: Markup
    caption: str = ""


def page(result: SweepResult, title: str) -> str:
    """Return the page; the same result gives the same text."""
    return html_page("sweep", title=title, **shown(result))


def shown(result: SweepResult) -> dict[str, Any]:
    """Return what templates show of a sweep."""
    heading, *rows = rows_of(result)
    return {
        "sweep": result,
        "heading": heading,
        "rows": rows,
        "baseline": baseline_words(result),
        "best": name_words(result, result.best) if result.best else "",
        "best_on_half": name_words(result, result.best_on_half) if result.best_on_half else "",
        "best_score": with_interval(result.best_score),
        "pictures": pictures(result),
    }


def pictures(result: SweepResult) -> list[Picture]:
    """Return the pictures of a sweep: win rate against fall, hills, and over the items."""
    return [
        *_frontier(result),
        *(_hill(result, hill) for hill in result.hills),
        *(_growth(result, growth) for growth in result.growths),
    ]


def _frontier(result: SweepResult) -> list[Picture]:
    """Win rate against the fall of held-out answers, a dot for each setting that has both."""
    found = [one for one in result.settings if one.win_rate and one.held_out_fall]
    if len(found) < 2:
        return []
    points = [(_value(one.held_out_fall), one) for one in found]
    title = "Win rate against held-out fall"
    return [Picture(title, _plot(result, points, "Fall of held-out chosen answers [nats]", title))]


def _hill(result: SweepResult, hill: Hill) -> Picture:
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

    title = f"Win rate over {hill.path}"
    return Picture(title, _plot(result, points, name, title, curve), _sentence(hill_words(hill)))


def _growth(result: SweepResult, growth: Growth) -> Picture:
    """Win rate over the number of items trained on, with the curve towards its limit."""
    points = [(one.items, one) for one in result.settings if is_of(growth, one.values)]
    among = setting_words(result, growth.others)
    title = f"Win rate over the items trained on{f'; {among}' if among else ''}"
    drawing = _plot(result, points, "Items trained on", title, growth.at)
    return Picture(title, drawing, _sentence(growth_words(result, growth)))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}.".replace(" %", "\N{NO-BREAK SPACE}%")


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
        bar = element("path", d=path([(across(x), up(low)), (across(x), up(high))]), class_="bar")
        at = across(x), up(_value(one.win_rate))
        is_baseline = one.name == result.baseline_of(one)
        dots = [dot("before" if is_baseline else "after", *at, 5)]
        if one.name == result.best:
            # Inside a baseline's ring, over any other dot.
            dots.append(dot("down", *at, 3 if is_baseline else 5))
        words = f"{setting_words(result, one.values)}; {with_interval(one.win_rate)} %"
        marks.append(element("g", bar, *dots, element("title", words)))
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
