"""The report as one HTML page: `render` is pure and the page needs nothing beside itself, not even a script.

The pictures are inline SVG (see `report_figures`), which keeps a report well under 1 MB and lets
its content security policy forbid every script and every request. All texts come from models,
judges or users and are hostile: templates escape them, and control characters are made visible
first.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prefine.records import MetricValue
from prefine.report.data import AnswerExample, HeadToHead, ReportData, RoadStep
from prefine.report.sections.held_out import held_out
from prefine.report.sections.outcome import EXPLOITED, alarm, duration, outcome, tiles, verdict
from prefine.report.sections.training import training
from prefine.report.svg import (
    NBSP,
    Axis,
    dumbbell,
    interval_plot,
    interval_text,
    meter,
    number,
    plural,
    scale_labels,
    share_text,
    stacked_bar,
    value_text,
    visible,
    waffle,
    with_unit,
)

LONG_TEXT_CHARACTERS = 700
LONG_TEXT_LINES = 14
_LONGEST_MEAN_WORD = (
    15  # characters; what is longer on average are no words, but a language without spaces
)
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
        policy=(
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        ),
        outcome=outcome(data),
        exploited=EXPLOITED,
        alarm=alarm(data),
        tiles=tiles(data),
        hero=_hero(data.contests),
        road=_road(data.road),
        training=training(data) if data.training else None,
        held_out=held_out(data),
        contests=_contests(data.contests),
        metrics=[_metric(metric) for metric in data.metrics],
        constraints=_constraints(data),
        examples=[_example(example) for example in data.examples],
        percent_scale=scale_labels(PERCENT, (0, 50, 100), lambda v: share_text(v / 100)),
        unit_scale=scale_labels(UNIT, (0, 0.5, 1), partial(number, decimals=1)),
    )


@cache
def _stylesheet() -> str:
    text = (resources.files("prefine.report") / "templates" / "report.css").read_text(
        encoding="utf-8"
    )
    return text.replace("\r\n", "\n")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("prefine.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )


def _parts(contest: HeadToHead) -> list[tuple[str, int, str]]:
    return [
        ("won", contest.wins, "win"),
        ("tied", contest.ties, "tie"),
        ("lost", contest.losses, "loss"),
    ]


@dataclass(frozen=True)
class Hero:
    """The hundred squares beside the outcome."""

    picture: Markup
    parts: list[tuple[str, str, str]]
    whose: str


def _hero(contests: Sequence[HeadToHead]) -> Hero | None:
    ordered = sorted(
        (c for c in contests if c.wins + c.ties + c.losses), key=lambda c: c.role != "gold"
    )
    if not ordered:
        return None
    contest = ordered[0]
    words = ", ".join(f"{count:,} {name}" for name, count, _ in _parts(contest))
    return Hero(
        picture=waffle(
            f"Of the prompts, {words}, shown as shares of one hundred squares", _parts(contest)
        ),
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
            time_share=share_text(step.seconds / seconds),
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
class ReportRow:
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


def _contests(contests: Sequence[HeadToHead]) -> list[ReportRow]:
    rows = []
    for contest in contests:
        value, interval = value_text(contest.win_rate), interval_text(contest.win_rate)
        label = f"{contest.judge}: win rate {value}" + (
            f", 95 % interval {interval}" if interval else ""
        )
        words = ", ".join(f"{count:,} {name}" for name, count, _ in _parts(contest))
        rows.append(
            ReportRow(
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


def _metric(metric: MetricValue) -> ReportRow:
    name = metric.name.replace("_", " ").replace("/", " / ")
    value, interval = value_text(metric), interval_text(metric)
    if not interval and metric.standard_error is not None:
        interval = f"± {with_unit(number(metric.standard_error), metric.unit)} (standard error)"
    inside = metric.unit == "%" and all(
        0 <= v <= 100 for v in (metric.value, *(metric.interval or ()))
    )
    label = f"{name}: {value}" + (f", {interval}" if interval else "")
    return ReportRow(
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
    rows: list[ReportRow]


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
            ReportRow(
                name=constraint.name,
                value=words,
                interval=f"{interval_text(before, 2)} → {interval_text(after, 2)}"
                if before.interval and after.interval
                else "",
                n=f"{after.n:,}" if after.n == before.n else f"{before.n:,} → {after.n:,}",
                picture=dumbbell(
                    f"{constraint.name}: before and after {words}", before, after, axis=UNIT
                ),
                change=number(change, 2, signed=True) if change else "no change",
                way="up" if change > 0 else "down" if change < 0 else "same",
            )
        )
    up, down = (sum(row.way == way for row in rows) for way in ("up", "down"))
    text = f"Of {plural(len(rows), 'constraint')}, {up} better kept after training, {down} worse"
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


def _example(example: AnswerExample) -> ExampleView:
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
    favourite = (
        "prefers after"
        if p_after > 0.5
        else "prefers before"
        if p_after < 0.5
        else "calls it a tie"
    )
    return f"the judge {favourite}: P(after is better) = {number(p_after, 2)}"


def _side(title: str, kind: str, text: str, gold: Mapping[str, float] | None, longest: int) -> Side:
    repeated = repeated_share(text)
    return Side(
        title=title,
        kind=kind,
        text=text,
        long=_is_long(text),
        length=plural(len(text), "character"),
        length_meter=meter(len(text) / longest, kind),
        repeated=f"{share_text(repeated)} repeated"
        if repeated is not None and repeated >= 0.1
        else "",
        gold=[
            (name, number(value, 2), meter(value, kind))
            for name, value in sorted((gold or {}).items())
        ],
    )


def _is_long(text: str) -> bool:
    return len(text) > LONG_TEXT_CHARACTERS or text.count("\n") > LONG_TEXT_LINES


def repeated_share(text: str) -> float | None:
    """The share of a text's runs of 3 words that occurred in it before; None for a text too short to tell.

    Of a text that is written without spaces it is the share of runs of 8 characters, which is about
    as much text.
    """
    parts, length = text.split(), 3
    if sum(map(len, parts)) > _LONGEST_MEAN_WORD * len(parts):
        parts, length = list("".join(parts)), 8
    runs = [tuple(parts[i : i + length]) for i in range(len(parts) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) >= 8 else None
