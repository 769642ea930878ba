"""The page of a comparison: settings, scores, curves overlaid, answers side by side."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

from markupsafe import Markup

from prefine.compare.results import ComparedScore, PromptApart, RunComparison
from prefine.compare.runs import RunRead
from prefine.compare.text import TITLES, figure, p_text, shown_value, verdict_text
from prefine.report.charts import Curve, line_chart
from prefine.report.examples import changed_words
from prefine.report.html import html_page
from prefine.report.svg import Scale, dot, element, lettering, line, picture, ticks
from prefine.report.text import number, share_text
from prefine.report.training import MAX_POINTS

_ROW, _TOP = 30, 14
"""Pixels of a run in the picture of a score, and above the first."""


class RunCurve(NamedTuple):
    """A figure of the logs: its picture's title, its name there, its unit."""

    title: str
    name: str
    unit: str
    form: Callable[[float], str] = number


FIGURES = (
    RunCurve("Fall of the chosen answers", "fall", "nats", partial(number, signed=True)),
    RunCurve("Loss", "loss", ""),
    RunCurve("Accuracy: chosen over rejected", "accuracy", "%"),
    RunCurve("Ranking accuracy: comparisons of a list", "ranking_accuracy", "%"),
    RunCurve("AUC: good over bad answers", "auc", "%"),
    RunCurve("Margin", "margin", "nats"),
)


class RunPicture(NamedTuple):
    """A picture and its title."""

    title: str
    drawn: Markup


class ApartSide(NamedTuple):
    """One run's answer to a prompt, in pieces: True where another run has other words."""

    letter: str
    answer: str
    pieces: list[tuple[str, bool]]
    said: str


def page(found: RunComparison, runs: Sequence[RunRead]) -> str:
    """Return the page; the same runs give the same text."""
    return html_page(
        "compare",
        title=f"Compare {', '.join(one.path for one in found.runs)}",
        found=found,
        titles=TITLES,
        figure=figure,
        p_text=p_text,
        verdict_text=verdict_text,
        shown_value=shown_value,
        kind=kind,
        scores=[(score, score_picture(score, found.evaluated)) for score in found.scores],
        training=list(_curves(runs)),
        losses_differ=any(row.path.startswith("train.loss") for row in found.settings),
        apart=[(one, sides_of(one, found.evaluated)) for one in found.furthest_apart],
    )


def kind(letter: str) -> str:
    """Return the class of a run's marks."""
    return f"run-{letter.lower()}"


def _curves(runs: Sequence[RunRead]) -> Iterator[RunPicture]:
    """Yield two pictures for each figure, on one axis: of training, and of held-out items."""
    for drawn in FIGURES:
        logs = {
            "training": [(run, _binned(points_of(run.train_log, drawn.name))) for run in runs],
            "held-out": [(run, _thinned(points_of(run.eval_log, drawn.name))) for run in runs],
        }
        shown = {
            where: [(run, points) for run, points in each if len(points) > 1]
            for where, each in logs.items()
        }
        factor = 100 if drawn.unit == "%" else 1
        values = [
            factor * value for each in shown.values() for _, pts in each for value in pts.values()
        ]
        if not any(values):
            continue
        axis = Scale(0, 100) if drawn.unit == "%" else Scale.around(values)
        for where, each in shown.items():
            if each:
                title = f"{drawn.title}, {where}"
                yield RunPicture(title, _chart(title, drawn, each, axis, factor))


def _chart(
    title: str,
    drawn: RunCurve,
    each: Sequence[tuple[RunRead, Mapping[int, float]]],
    axis: Scale,
    factor: int,
) -> Markup:
    form: Callable[[float], str] = drawn.form
    if factor != 1:
        form = _percent
    curves = [
        Curve(
            run.letter,
            kind(run.letter),
            [factor * value for value in points.values()],
            form,
            list(points),
            bare=True,
        )
        for run, points in each
    ]
    ends = ", ".join(f"{one.name} ends at {form(one.values[-1])}" for one in curves)
    steps = sorted({step for _, points in each for step in points})
    return line_chart(f"{title}: {ends}", steps, curves, axis=axis, tick_count=4, title=drawn.unit)


def _percent(value: float) -> str:
    return share_text(value / 100)


def points_of(log: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """The finite values of a figure by step."""
    return {
        row["step"]: float(value)
        for row in log
        if isinstance(value := row.get(name), int | float) and math.isfinite(value)
    }


def _binned(points: Mapping[int, float]) -> dict[int, float]:
    """Means of consecutive steps, of which a picture has room for; at their last step."""
    size = math.ceil(max(points, default=1) / MAX_POINTS)
    bins: dict[int, list[int]] = {}
    for step in points:
        bins.setdefault(math.ceil(step / size), []).append(step)
    return {steps[-1]: fmean(points[step] for step in steps) for steps in bins.values()}


def _thinned(points: Mapping[int, float]) -> dict[int, float]:
    """At most as many points as a picture has room for, the last one among them."""
    every = max(1, math.ceil(len(points) / MAX_POINTS))
    kept = list(points)[::-every][::-1]
    return {step: points[step] for step in kept}


def score_picture(score: ComparedScore, letters: Sequence[str]) -> Markup:
    """Draw the mean of each run with its interval, one below the other."""
    ends = [end for one in score.values for end in one.interval or (one.value, one.value)]
    around = Scale.around(ends)
    across = Scale(around.low, around.high, 8, 97)
    bottom = _TOP + _ROW * len(letters)
    marks: list[Markup] = []
    for value in ticks(across.low, across.high, 4):
        marks.append(line("grid", across(value), ("0", str(bottom))))
        marks.append(lettering("tick middle", f"{value:g}", across(value), str(bottom), dy=16))
    for row, (letter, mean) in enumerate(zip(letters, score.values, strict=True)):
        height = str(_TOP + _ROW * row)
        bar = Markup()
        if mean.interval is not None:
            low, high = mean.interval
            bar = line(f"bar {kind(letter)}", (across(low), across(high)), height)
        words = element("title", f"{letter}: {figure(mean, score.name)}")
        name = lettering("tick", letter, "0", height, dy=4)
        marks += [name, element("g", bar, dot(kind(letter), across(mean.value), height, 5), words)]
    said = ", ".join(
        f"{letter} {figure(value, score.name)}"
        for letter, value in zip(letters, score.values, strict=True)
    )
    return picture(
        "plot means", f"{TITLES[score.name]}: {said}", *marks, height=str(bottom + 24), width="100%"
    )


def sides_of(one: PromptApart, letters: Sequence[str]) -> list[ApartSide]:
    """Return the answers with the words marked that the first one, or the other one, lacks."""
    first = one.answers[0]
    pieces = [changed_words(first, other)[1] for other in one.answers]
    if len(letters) == 2:
        pieces[0] = changed_words(first, one.answers[1])[0]
    else:
        pieces[0] = [(first, False)]
    sides = []
    for letter, answer, parts, gold, p in zip(
        letters, one.answers, pieces, one.gold, one.p_better, strict=True
    ):
        said = [] if gold is None else [f"gold {number(gold, 2)}"]
        said += [] if p is None else [f"P(better than the baseline) {number(p, 2)}"]
        sides.append(ApartSide(letter, answer, parts, ", ".join(said)))
    return sides
