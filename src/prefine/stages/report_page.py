"""The report as one HTML page: `render` is pure and the page needs nothing beside itself, not even a script.

The pictures are inline SVG (see `report_figures`), which keeps a report well under 1 MB and lets its content security
policy forbid every script and every request. All texts come from models, judges or users and are hostile: templates
escape them, and control characters are made visible first.
"""

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from statistics import fmean

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefine.records import MetricValue
from prefine.stages.report_data import Contest, Example, ReportData, RoadStep, TrainPoint
from prefine.stages.report_figures import (
    NBSP,
    Axis,
    Band,
    Line,
    Rule,
    dumbbell,
    interval_plot,
    interval_text,
    line_chart,
    meter,
    number,
    scale_labels,
    span,
    stacked_bar,
    value_text,
    visible,
    waffle,
    with_unit,
)
from prefine.stages.report_outcome import EXPLOITED, alarm, duration, outcome, tiles, verdict

MAX_POINTS = 120
"""More training steps than this are averaged in bins: a picture has no more room, and a page should open at once."""
LONG_TEXT_CHARACTERS = 700
LONG_TEXT_LINES = 14
PERCENT = Axis(0, 100)
UNIT = Axis(0, 1)


def render(data: ReportData) -> str:
    """The whole page. The same data gives the same text."""
    css = _stylesheet()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    page = _environment().get_template("report.html.j2")
    return page.render(
        data=data,
        css=Markup(css),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        outcome=outcome(data),
        exploited=EXPLOITED,
        alarm=alarm(data),
        tiles=tiles(data),
        hero=_hero(data.contests),
        road=_road(data.road),
        training=_training(data) if data.training else None,
        contests=_contests(data.contests),
        metrics=[_metric(metric) for metric in data.metrics],
        constraints=_constraints(data),
        examples=[_example(example) for example in data.examples],
        percent_scale=scale_labels(PERCENT, (0, 50, 100), _percent),
        unit_scale=scale_labels(UNIT, (0, 0.5, 1), partial(number, decimals=1)),
    )


@cache
def _stylesheet() -> str:
    text = (resources.files("prefine.stages") / "templates" / "report.css").read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("prefine.stages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )


def _percent(value: float, decimals: int = 0) -> str:
    return with_unit(number(value, decimals), "%")


def _share(value: float) -> str:
    return _percent(100 * value, 0)


def _parts(contest: Contest) -> list[tuple[str, int, str]]:
    return [("won", contest.wins, "win"), ("tied", contest.ties, "tie"), ("lost", contest.losses, "loss")]


@dataclass(frozen=True)
class Hero:
    """The hundred squares beside the outcome."""

    picture: Markup
    parts: list[tuple[str, str, str]]
    whose: str


def _hero(contests: Sequence[Contest]) -> Hero | None:
    ordered = sorted((c for c in contests if c.wins + c.ties + c.losses), key=lambda c: c.role != "gold")
    if not ordered:
        return None
    contest = ordered[0]
    words = ", ".join(f"{count:,} {name}" for name, count, _ in _parts(contest))
    return Hero(
        picture=waffle(f"Of the prompts, {words}, shown as shares of one hundred squares", _parts(contest)),
        parts=[(f"{count:,}", name, kind) for name, count, kind in _parts(contest)],
        whose=f"{contest.role} “{contest.judge}”",
    )


@dataclass(frozen=True)
class Station:
    """One stage in the picture of the road."""

    stage: str
    taken: str
    takes: str
    produced: str
    makes: str
    losses: list[tuple[str, str, int]]
    time: str
    time_share: str
    time_meter: Markup
    calls: str
    calls_meter: Markup
    repeated: int
    notes: tuple[str, ...]


def _road(road: Sequence[RoadStep]) -> list[Station]:
    seconds = sum(step.seconds for step in road) or 1.0
    calls = sum(step.calls for step in road) or 1
    return [
        Station(
            stage=step.stage,
            taken=f"{step.counts.taken:,}",
            takes=step.takes,
            produced=f"{step.counts.produced:,}",
            makes=step.makes,
            losses=[("failed", *item) for item in _by_count(step.counts.failed)]
            + [("dropped", *item) for item in _by_count(step.counts.dropped)],
            time=duration(step.seconds),
            time_share=_share(step.seconds / seconds),
            time_meter=meter(step.seconds / seconds),
            calls=f"{step.calls:,}",
            calls_meter=meter(step.calls / calls),
            repeated=step.repeated_after_interruption,
            notes=step.notes,
        )
        for step in road
    ]


def _by_count(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((r, n) for r, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))


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


def _training(data: ReportData) -> Training:
    points, bin_size = _thinned(data.training)
    per_answer = data.delta is not None and data.delta_per == "sequence"
    delta = data.delta if per_answer else None
    charts = _small_charts(points)
    notes = []
    if bin_size > 1:
        notes.append(f"Each point is the mean of {bin_size} steps.")
    if data.delta is not None and not per_answer:
        notes.append(
            f"The budget is {number(data.delta)} nats per token: it grows with the answer and has no single line here."
        )
    likelihood, seen = _likelihood(points, delta)
    if delta is not None and not seen:
        notes.append(f"The budget line at {number(-delta)} nats lies outside this picture.")
    fields = _columns(points)
    return Training(
        finding=_finding(data.training, delta),
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
        "accuracy": lambda p: _share(p.accuracy),
    }
    if any(p.beyond_delta is not None for p in points):
        columns["beyond budget"] = lambda p: "not measured" if p.beyond_delta is None else _share(p.beyond_delta)
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


def _finding(training: Sequence[TrainPoint], delta: float | None) -> str:
    last = training[-1]
    end, rejected = (number(abs(v)) for v in (last.chosen_change, last.rejected_change))
    way, rejected_way = ("below" if v < 0 else "above" for v in (last.chosen_change, last.rejected_change))
    text = f"After {len(training):,} steps the chosen answers are {end} nats {way} where they began"
    text += f", the rejected ones {rejected} nats {rejected_way}."
    if delta is not None:
        place = "inside" if last.fall <= delta else "beyond"
        text += f" On average that is {place} the budget of {number(delta)} nats"
        beyond = last.beyond_delta
        text += f"; {_share(beyond)} of the last step’s pairs lie beyond it." if beyond is not None else "."
    return text


def _likelihood(points: Sequence[TrainPoint], delta: float | None) -> tuple[Markup, bool]:
    """The main picture, and whether the budget line found room in it."""
    steps = [float(p.step) for p in points]
    chosen = Line("chosen", "chosen", tuple(p.chosen_change for p in points), partial(number, signed=True))
    rejected = Line("rejected", "rejected", tuple(p.rejected_change for p in points), partial(number, signed=True))
    band = Band("80 % of chosen", tuple(-p.fall_high for p in points), tuple(-p.fall_low for p in points))
    values = [0.0, *chosen.values, *rejected.values, *band.low, *band.high]
    seen = delta is not None and -delta >= min(values) - 2 * (max(values) - min(values)) and -delta <= max(values) + 1
    rules = []
    if delta is not None and seen:
        values.append(-delta)
        rules.append(Rule(f"budget −{number(delta)}" if delta >= 0 else f"budget +{number(-delta)}", "budget", -delta))
    label = (
        f"Change of log-probability over {len(points)} points up to step {points[-1].step}: chosen answers end at "
        f"{number(chosen.values[-1], signed=True)} nats, rejected at {number(rejected.values[-1], signed=True)} nats"
        + (f", budget line at {number(-delta)} nats" if delta is not None and seen else "")
    )
    axis = Axis.around(values)
    return line_chart(label, steps, [chosen, rejected], axis=axis, band=band, rules=rules, tick_count=7), seen


def _small_charts(points: Sequence[TrainPoint]) -> list[Chart]:
    measured = [p for p in points if p.beyond_delta is not None]
    charts = []
    if measured:
        shares = [p.beyond_delta or 0.0 for p in measured]
        charts.append(_small("Share of pairs beyond the budget", measured, shares, _share, UNIT))
    charts.append(_small("Accuracy: chosen above rejected", points, [p.accuracy for p in points], _share, UNIT, 0.5))
    for title, values in (
        ("Margin [nats]", [p.margin for p in points]),
        ("Loss", [p.loss for p in points]),
        ("Gradient norm", [p.grad_norm for p in points]),
    ):
        charts.append(_small(title, points, values, number, Axis.around(values)))
    return charts


def _small(
    title: str,
    points: Sequence[TrainPoint],
    values: Sequence[float],
    form: Callable[[float], str],
    axis: Axis,
    middle: float | None = None,
) -> Chart:
    label = f"{title}: from {form(values[0])} at step {points[0].step} to {form(values[-1])} at step {points[-1].step}"
    picture = line_chart(
        label,
        [float(p.step) for p in points],
        [Line("", "chosen", tuple(values), form)],
        axis=axis,
        rules=[] if middle is None else [Rule("", "middle", middle)],
        tick_count=4,
        tick_form=form,
    )
    return Chart(title, form(values[-1]), picture)


@dataclass(frozen=True)
class Row:
    """A contest, a metric or a constraint: a name, its words, its picture."""

    name: str
    value: str
    interval: str
    n: str
    picture: Markup | None
    tag: str = ""
    bar: Markup | None = None
    bar_text: str = ""
    change: str = ""
    way: str = ""


_VERDICT_WORDS = {
    "better": "better: the interval is above 50 %",
    "worse": "worse: the interval is below 50 %",
    "undecided": "undecided: the interval includes 50 %",
    "unknown": "no interval was computed",
}


def _contests(contests: Sequence[Contest]) -> list[Row]:
    rows = []
    for contest in contests:
        value, interval = value_text(contest.win_rate), interval_text(contest.win_rate)
        label = f"{contest.judge}: win rate {value}" + (f", 95 % interval {interval}" if interval else "")
        words = ", ".join(f"{count:,} {name}" for name, count, _ in _parts(contest))
        rows.append(
            Row(
                name=contest.judge,
                tag=contest.role,
                value=value,
                interval=interval,
                n=f"{contest.win_rate.n:,}",
                picture=interval_plot(label, contest.win_rate, axis=PERCENT, middle=50),
                bar=stacked_bar(f"{contest.judge}: {words}", _parts(contest)),
                bar_text=words,
                change=_VERDICT_WORDS[verdict(contest.win_rate)].replace(" %", f"{NBSP}%"),
                way=verdict(contest.win_rate),
            )
        )
    return rows


def _metric(metric: MetricValue) -> Row:
    name = metric.name.replace("_", " ").replace("/", " / ")
    value, interval = value_text(metric), interval_text(metric)
    if not interval and metric.standard_error is not None:
        interval = f"± {with_unit(number(metric.standard_error), metric.unit)} (standard error)"
    inside = metric.unit == "%" and all(0 <= v <= 100 for v in (metric.value, *(metric.interval or ())))
    label = f"{name}: {value}" + (f", {interval}" if interval else "")
    return Row(
        name=name[:1].upper() + name[1:],
        value=value,
        interval=interval,
        n=f"{metric.n:,}",
        picture=interval_plot(label, metric, axis=PERCENT) if inside else None,
    )


@dataclass(frozen=True)
class Constraints:
    """The constraints' rows, most improved first, and the sentence over them."""

    finding: str
    rows: list[Row]


def _constraints(data: ReportData) -> Constraints | None:
    if not data.constraints:
        return None
    ordered = sorted(data.constraints, key=lambda c: (c.before.value - c.after.value, c.name))
    rows = []
    for constraint in ordered:
        before, after = constraint.before, constraint.after
        words = f"{number(before.value, 2)} → {number(after.value, 2)}"
        change = round(after.value - before.value, 2)
        rows.append(
            Row(
                name=constraint.name,
                value=words,
                interval=f"{interval_text(before, 2)} → {interval_text(after, 2)}"
                if before.interval and after.interval
                else "",
                n=f"{after.n:,}" if after.n == before.n else f"{before.n:,} → {after.n:,}",
                picture=dumbbell(f"{constraint.name}: before and after {words}", before, after, axis=UNIT),
                change=number(change, 2, signed=True) if change else "no change",
                way="up" if change > 0 else "down" if change < 0 else "same",
            )
        )
    up, down = (sum(row.way == way for row in rows) for way in ("up", "down"))
    text = f"Of {len(rows)} constraints, {up} are kept better after training, {down} worse"
    same = len(rows) - up - down
    return Constraints(f"{text}, {same} the same." if same else f"{text}.", rows)


@dataclass(frozen=True)
class Side:
    """One answer of an example."""

    title: str
    kind: str
    text: str
    long: bool
    length: str
    length_meter: Markup
    repeated: str
    gold: list[tuple[str, str, Markup]]


@dataclass(frozen=True)
class ExampleView:
    """One prompt and both answers."""

    prompt: str
    prompt_long: bool
    judged: str
    sides: tuple[Side, Side]


def _example(example: Example) -> ExampleView:
    longest = max(len(example.before), len(example.after), 1)
    return ExampleView(
        prompt=example.prompt,
        prompt_long=_is_long(example.prompt),
        judged="" if example.p_after is None else _judged(example.p_after),
        sides=(
            _side("Before", "before", example.before, example.gold_before, longest),
            _side("After", "after", example.after, example.gold_after, longest),
        ),
    )


def _judged(p_after: float) -> str:
    favourite = "prefers after" if p_after > 0.5 else "prefers before" if p_after < 0.5 else "calls it a tie"
    return f"the judge {favourite}: P(after is better) = {number(p_after, 2)}"


def _side(title: str, kind: str, text: str, gold: Mapping[str, float] | None, longest: int) -> Side:
    repeated = repeated_share(text)
    return Side(
        title=title,
        kind=kind,
        text=text,
        long=_is_long(text),
        length=f"{len(text):,} character{'' if len(text) == 1 else 's'}",
        length_meter=meter(len(text) / longest, kind),
        repeated=f"{_share(repeated)} repeated" if repeated is not None and repeated >= 0.1 else "",
        gold=[(name, number(value, 2), meter(value, kind)) for name, value in sorted((gold or {}).items())],
    )


def _is_long(text: str) -> bool:
    return len(text) > LONG_TEXT_CHARACTERS or text.count("\n") > LONG_TEXT_LINES


def repeated_share(text: str, words: int = 3) -> float | None:
    """The share of a text's runs of `words` words that occurred in it before; None for a text too short to tell."""
    parts = text.split()
    runs = [tuple(parts[i : i + words]) for i in range(len(parts) - words + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) >= 8 else None
