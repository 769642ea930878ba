"""The script of the pictures in a browser: reading, zooming, smoothing, keys, hostile texts."""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from markupsafe import escape
from playwright.sync_api import BrowserContext, Page

from browser import Visit, chromium, visit
from prefine.view.chart_data import ChartData, ChartMark, Series, figure

Open = Callable[..., Any]
MARKS = resources.files("prefine.report") / "templates" / "marks.css"
STATIC = resources.files("prefine.view") / "static"
POLICY = "default-src 'none'; script-src 'self' file:; style-src 'self' file:"
CHART = ChartData(
    title="Loss",
    y="nats",
    series=(
        Series(name="training", kind="training", points=tuple((n, 100.0 - n) for n in range(101))),
        Series(
            name="held-out", kind="held-out", points=((0, 50.0), (50, 25.0), (100, 10.0)), dots=True
        ),
    ),
    marks=(ChartMark(y=40.0, label="budget 40"),),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium() as context:
        yield context


@pytest.fixture
def page(browser: BrowserContext, tmp_path: Path) -> Iterator[Open]:
    """Open a page with figures; closed at the end, when nobody may have complained."""
    opened: list[Visit] = []
    stack = ExitStack()

    def opens(*figures: str, **options: Any) -> Page:
        for file in (STATIC / "charts.js", STATIC / "charts.css", MARKS):
            (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), "utf-8")
        (tmp_path / "page.html").write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Charts</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width">'
            '<link rel="stylesheet" href="marks.css"><link rel="stylesheet" href="charts.css">'
            '<script src="charts.js" defer></script>'
            f"</head><body><main><h1>Charts</h1>{''.join(figures)}</main></body></html>",
            "utf-8",
        )
        opened.append(stack.enter_context(visit(browser, tmp_path / "page.html", **options)))
        return opened[-1].page

    with stack:
        yield opens
    for found in opened:
        assert found.complaints == []
        assert {url.rpartition("/")[2] for url in found.requests} == {
            "page.html",
            "charts.js",
            "charts.css",
            "marks.css",
        }


def _at(page: Page, step: float, *, steps: tuple[float, float] = (0, 100)) -> tuple[float, float]:
    """The place of a step on the page."""
    box = page.locator(".chart-pane").bounding_box()
    assert box is not None
    low, high = steps
    room = box["width"] - 52 - 12
    return box["x"] + 52 + room * (step - low) / (high - low), box["y"] + 100


def _ticks(page: Page) -> list[float]:
    """The numbers on the axis of steps."""
    return [float(words) for words in page.locator(".tick.middle").all_text_contents()]


def test_hover_reads_all_curves(page: Open) -> None:
    shown = page(str(figure(CHART)))
    assert shown.locator(".chart-end").is_hidden()
    shown.mouse.move(*_at(shown, 60.2))
    assert shown.locator(".chart-readout").inner_text().split("\n") == [
        "step 60",
        "training 40",
        "held-out 25 (step 50)",
    ]
    assert shown.locator("text.mark-label").text_content() == "budget 40"
    shown.mouse.move(5, 5)
    assert shown.locator(".chart-readout").inner_text() == ""


def test_dragging_zooms_and_a_double_click_shows_all(page: Open) -> None:
    shown = page(str(figure(CHART)))
    reset = shown.get_by_role("button", name="Show all steps of: Loss")
    assert reset.is_hidden() and _ticks(shown)[-1] == 100
    shown.mouse.move(*_at(shown, 20))
    shown.mouse.down()
    shown.mouse.move(*_at(shown, 40))
    assert shown.locator(".chosen-part").count() == 1
    shown.mouse.up()
    assert (min(_ticks(shown)), max(_ticks(shown))) == (20, 40)
    assert shown.locator(".chosen-part").count() == 0 and reset.is_visible()
    shown.mouse.move(*_at(shown, 30, steps=(20, 40)))
    assert shown.locator(".chart-readout").inner_text().startswith("step 30\ntraining 70")
    shown.mouse.dblclick(*_at(shown, 50))
    assert _ticks(shown)[-1] == 100 and reset.is_hidden()
    # A click is no zoom.
    shown.mouse.click(*_at(shown, 50))
    assert reset.is_hidden()


def test_the_wheel_zooms_a_chart_that_was_clicked_or_with_control(page: Open) -> None:
    shown = page(str(figure(CHART)))
    shown.mouse.move(*_at(shown, 50))
    shown.mouse.wheel(0, -200)
    shown.wait_for_timeout(50)
    assert _ticks(shown)[-1] == 100
    shown.mouse.click(*_at(shown, 50))
    for _ in range(4):
        shown.mouse.wheel(0, -200)
    shown.wait_for_function("document.querySelector('.chart-reset').hidden === false")
    assert 25 < min(_ticks(shown)) < 50 < max(_ticks(shown)) < 75


def test_keys_read_and_zoom(page: Open) -> None:
    shown = page(str(figure(CHART)))
    shown.keyboard.press("Tab")  # the two curves, smoothing, then the picture
    assert shown.evaluate("document.activeElement.textContent") == "training"
    shown.keyboard.press("Space")
    pressed = [one.get_attribute("aria-pressed") for one in shown.locator(".chart-toggle").all()]
    assert pressed == ["false", "true"]
    assert shown.locator("path.line.training").count() == 0
    shown.keyboard.press("Space")
    for _ in range(3):
        shown.keyboard.press("Tab")
    readout = shown.locator(".chart-readout")
    for key, step in (
        ("ArrowRight", 0),
        ("ArrowRight", 1),
        ("Shift+ArrowRight", 11),
        ("ArrowLeft", 10),
        ("End", 100),
        ("Home", 0),
    ):
        shown.keyboard.press(key)
        assert readout.inner_text().startswith(f"step {step}\ntraining {100 - step}")
    shown.keyboard.press("+")
    assert max(_ticks(shown)) <= 70
    shown.keyboard.press("-")
    shown.keyboard.press("-")
    assert _ticks(shown)[-1] == 100 and shown.locator(".chart-reset").is_hidden()
    shown.keyboard.press("+")
    shown.keyboard.press("Escape")
    assert _ticks(shown)[-1] == 100


def test_smoothing_is_exponential_and_without_bias(page: Open) -> None:
    chart = ChartData(title="A", series=(Series(name="a", points=((1, 0.0), (2, 1.0), (4, 1.0))),))
    shown = page(str(figure(chart)))
    assert shown.locator("path.raw").count() == 0
    shown.locator("input").evaluate(
        "slider => { slider.value = 0.5; slider.dispatchEvent(new Event('input')); }"
    )
    assert shown.locator("path.raw").count() == 1
    shown.locator(".chart-pane").focus()
    # The distance of steps is 2 here, the larger of the two in the middle.
    keep = math.sqrt(0.5)
    second = 0.5 / (0.5 * keep + 0.5)
    third = (0.5 * 0.5 + 0.5) / (0.5 * (0.5 * keep + 0.5) + 0.5)
    for value in (0.0, second, third):
        shown.keyboard.press("ArrowRight")
        read = shown.locator(".chart-readout").inner_text().split()[-1]
        assert float(read) == pytest.approx(value, abs=0.006)


def test_values_that_are_no_numbers_are_gaps(page: Open) -> None:
    points = [[1, 1], [2, 2], [3, None], [4, "NaN"], [5, 3], [6, 4]]
    data = json.dumps({"title": "Gap", "series": [{"name": "a", "points": points}]})
    nothing = json.dumps({"title": "Empty", "series": [{"name": "a", "points": []}]})
    one = json.dumps({"title": "One", "series": [{"name": "a", "points": [[3, 7]]}]})
    shown = page(
        *(
            f'<figure class="chart" data-chart="{escape(each)}"><figcaption>c</figcaption></figure>'
            for each in (data, nothing, one)
        )
    )
    first, second, third = (
        found.get_attribute("d") or "" for found in shown.locator("path.line").all()
    )
    assert re.sub(r"[\d. ]+", "", first) == "MLML" and second == "" and third.count("M") == 1


def test_hostile_names_are_text(page: Open) -> None:
    text = "<img src=x onerror=alert(1)>\"'&amp;\u202e"
    chart = ChartData(
        title=text,
        y=text,
        series=(Series(name=text, points=((1, 1.0), (2, 2.0))), Series(name="b", points=())),
        marks=(ChartMark(y=1.5, label=text),),
    )
    shown = page(str(figure(chart)))
    shown.locator(".chart-pane").focus()
    shown.keyboard.press("End")
    said = text.replace("\u202e", "⟨U+202E⟩")
    assert shown.locator("img").count() == 0
    assert shown.locator("figcaption").text_content() == said
    assert said in shown.locator(".chart-readout").inner_text()
    assert shown.locator("text.mark-label").text_content() == said


def test_figures_that_came_later_and_no_figure_twice(page: Open) -> None:
    shown = page(str(figure(CHART)))
    shown.evaluate(
        "() => { const one = document.querySelector('figure'); const other = one.cloneNode(false);"
        " other.classList.remove('drawn'); one.after(other);"
        " window.prefineCharts.enhance(); window.prefineCharts.enhance(document.body); }"
    )
    assert shown.locator("figure").count() == shown.locator(".chart-pane").count() == 2


def test_a_figure_that_is_loaded_anew_is_as_the_reader_left_it(page: Open) -> None:
    shown = page(str(figure(CHART)))
    shown.get_by_role("button", name="held-out").click()
    shown.locator("input").evaluate(
        "slider => { slider.value = 0.5; slider.dispatchEvent(new Event('input')); }"
    )
    shown.locator(".chart-pane").focus()
    shown.keyboard.press("+")
    ticks = _ticks(shown)
    shown.evaluate(
        "() => { const old = document.querySelector('figure'); const now = old.cloneNode(false);"
        " now.classList.remove('drawn'); old.replaceWith(now);"
        " document.dispatchEvent(new CustomEvent('prefine:replaced')); }"
    )
    assert _ticks(shown) == ticks and max(ticks) < 100
    assert shown.locator("input").input_value() == "0.5"
    pressed = [one.get_attribute("aria-pressed") for one in shown.locator(".chart-toggle").all()]
    assert pressed == ["true", "false"]
    assert shown.locator("path.line.held-out").count() == 0
    shown.get_by_role("button", name="Show all steps of: Loss").click()
    assert _ticks(shown)[-1] == 100


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_room_and_accessibility(page: Open, width: int, scheme: str) -> None:
    shown = page(str(figure(CHART)), width=width, scheme=scheme)
    shown.locator(".chart-pane").focus()
    shown.keyboard.press("End")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(shown, options={"preload": False})
    serious = [
        violation["id"]
        for violation in found.response["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_without_the_script_the_last_values_can_be_read() -> None:
    assert 'class="chart-end">At the end: training 0, held-out 10 (nats)</p>' in figure(CHART)
