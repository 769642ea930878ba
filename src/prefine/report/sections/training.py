"""The report's section on training: likelihood against its budget, margins, accuracy, and the numbers behind them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from markupsafe import Markup

from prefine.report.data import ReportData, TrainEnd, TrainPoint
from prefine.report.svg import (
    Axis,
    Band,
    Line,
    ReferenceLine,
    line_chart,
    number,
    plural,
    share_text,
    span,
)

MAX_POINTS = 120
"""More training steps than this are averaged in bins: a picture has no more room, and a page should open at once."""
UNIT = Axis(0, 1)
ACCURACY, MARGIN = "Accuracy: chosen over rejected", "Margin [nats]"


@dataclass(frozen=True)
class Chart:
    """A picture under its title, with the value at the end."""

    title: str
    last: str
    picture: Markup


@dataclass(frozen=True)
class Training:
    """The pictures of a training run, and the sentence over them."""

    finding: str
    likelihood: Markup
    budget: str
    note: str
    side: list[Chart]
    below: list[Chart]
    header: list[str]
    table: list[list[str]]


def training(data: ReportData) -> Training:
    """The section on training; the data has at least one step."""
    points, bin_size = _thinned(data.training)
    per_answer = data.delta is not None and data.delta_per == "sequence"
    delta = data.delta if per_answer else None
    charts = _small_charts(points)
    notes = []
    if bin_size > 1:
        notes.append(f"Each point is the mean of {bin_size} steps.")
    if data.delta is not None and not per_answer:
        notes.append(
            f"The budget is {number(data.delta)} nats per token: it grows with the answer and has "
            "no single line here."
        )
    likelihood, seen = _likelihood(points, delta)
    if delta is not None and not seen:
        notes.append(f"The budget line at {number(-delta)} nats lies outside this picture.")
    fields = _columns(points)
    return Training(
        finding=_finding(data.training, data.trained, delta),
        likelihood=likelihood,
        budget=f"budget, −delta = {number(-delta)} nats" if delta is not None and seen else "",
        note=" ".join(notes),
        side=charts[:2],
        below=charts[2:],
        header=["step", *fields],
        table=[[number(p.step, 0), *(form(p) for form in fields.values())] for p in points],
    )


def _columns(points: Sequence[TrainPoint]) -> dict[str, Callable[[TrainPoint], str]]:
    columns: dict[str, Callable[[TrainPoint], str]] = {
        "loss": lambda p: number(p.loss, 3),
        "chosen, change": lambda p: number(p.chosen_change, 2, signed=True),
        "rejected, change": lambda p: number(p.rejected_change, 2, signed=True),
        "chosen, log-prob.": lambda p: number(p.chosen_logp, 2),
        "rejected, log-prob.": lambda p: number(p.rejected_logp, 2),
        "fall, 10–90 %": lambda p: span(number(p.fall_low, 2), number(p.fall_high, 2)),
        "margin": lambda p: number(p.margin, 2),
        "accuracy": lambda p: share_text(p.accuracy),
    }
    if any(p.beyond_delta is not None for p in points):
        columns["beyond budget"] = lambda p: (
            "not measured" if p.beyond_delta is None else share_text(p.beyond_delta)
        )
    columns["gradient norm"] = lambda p: number(p.grad_norm)
    return columns


def _thinned(training: Sequence[TrainPoint]) -> tuple[list[TrainPoint], int]:
    """At most MAX_POINTS points, each the mean of as many consecutive steps, named after the last of them."""
    size = math.ceil(len(training) / MAX_POINTS)
    bins = [training[i : i + size] for i in range(0, len(training), size)]
    return [_mean_point(points) if len(points) > 1 else points[0] for points in bins], size


def _mean_point(points: Sequence[TrainPoint]) -> TrainPoint:
    values: dict[str, float | None] = {}
    for name in TrainPoint.model_fields:
        known = [value for point in points if (value := getattr(point, name)) is not None]
        values[name] = fmean(known) if known else None
    return TrainPoint.model_validate(values | {"step": points[-1].step})


def _finding(training: Sequence[TrainPoint], trained: TrainEnd | None, delta: float | None) -> str:
    last = trained or training[-1]
    end, rejected = (number(abs(v)) for v in (last.chosen_change, last.rejected_change))
    way, rejected_way = (
        "below" if v < 0 else "above" for v in (last.chosen_change, last.rejected_change)
    )
    text = (
        f"After {plural(len(training), 'step')} the chosen answers are {end} nats {way} where "
        "they began"
    )
    text += f", the rejected ones {rejected} nats {rejected_way}."
    if delta is not None:
        place = "inside" if last.fall <= delta else "beyond"
        text += f" On average that is {place} the budget of {number(delta)} nats"
        beyond = last.beyond_delta
        text += f"; {share_text(beyond)} of the pairs lie beyond it." if beyond is not None else "."
    return text


def _likelihood(points: Sequence[TrainPoint], delta: float | None) -> tuple[Markup, bool]:
    """The main picture, and whether the budget line found room in it."""
    steps = [float(p.step) for p in points]
    chosen = Line(
        "chosen", "chosen", tuple(p.chosen_change for p in points), partial(number, signed=True)
    )
    rejected = Line(
        "rejected",
        "rejected",
        tuple(p.rejected_change for p in points),
        partial(number, signed=True),
    )
    band = Band(
        "80 % of chosen", tuple(-p.fall_high for p in points), tuple(-p.fall_low for p in points)
    )
    values = [0.0, *chosen.values, *rejected.values, *band.low, *band.high]
    seen = (
        delta is not None
        and -delta >= min(values) - 2 * (max(values) - min(values))
        and -delta <= max(values) + 1
    )
    rules = []
    if delta is not None and seen:
        values.append(-delta)
        rules.append(
            ReferenceLine(
                f"budget −{number(delta)}" if delta >= 0 else f"budget +{number(-delta)}",
                "budget",
                -delta,
            )
        )
    label = (
        f"Change of log-probability over {len(points)} points up to step {points[-1].step}: "
        "chosen answers end at "
        f"{number(chosen.values[-1], signed=True)} nats, rejected at "
        f"{number(rejected.values[-1], signed=True)} nats"
        + (f", budget line at {number(-delta)} nats" if delta is not None and seen else "")
    )
    axis = Axis.around(values)
    return line_chart(
        label, steps, [chosen, rejected], axis=axis, band=band, rules=rules, tick_count=7
    ), seen


def _small_charts(points: Sequence[TrainPoint]) -> list[Chart]:
    steps, measured = [p.step for p in points], [p for p in points if p.beyond_delta is not None]
    charts = []
    if measured:
        shares = [p.beyond_delta or 0.0 for p in measured]
        title = "Share of pairs beyond the budget"
        charts.append(small_chart(title, [p.step for p in measured], shares, share_text, UNIT))
    charts.append(small_chart(ACCURACY, steps, [p.accuracy for p in points], share_text, UNIT, 0.5))
    for title, values in (
        (MARGIN, [p.margin for p in points]),
        ("Loss", [p.loss for p in points]),
        ("Gradient norm", [p.grad_norm for p in points]),
    ):
        charts.append(small_chart(title, steps, values))
    return charts


def small_chart(
    title: str,
    steps: Sequence[int],
    values: Sequence[float],
    form: Callable[[float], str] = number,
    axis: Axis | None = None,
    middle: float | None = None,
) -> Chart:
    """One curve over training steps; the axis is around the values unless it is given."""
    label = (
        f"{title}: from {form(values[0])} at step {steps[0]} to {form(values[-1])} at step "
        f"{steps[-1]}"
    )
    picture = line_chart(
        label,
        [float(step) for step in steps],
        [Line("", "chosen", tuple(values), form)],
        axis=axis or Axis.around(values),
        rules=[] if middle is None else [ReferenceLine("", "middle", middle)],
        tick_count=4,
        tick_form=form,
    )
    return Chart(title, form(values[-1]), picture)
