"""The report's sections on training: likelihood, margins, accuracy; also of held-out pairs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

from markupsafe import Markup

from prefine.report.charts import Band, Curve, ReferenceLine, line_chart
from prefine.report.data import (
    BudgetPer,
    BudgetPoint,
    EvaluationPoint,
    ItemPoint,
    ReportData,
    TrainEnd,
    TrainPoint,
    fall_unit,
)
from prefine.report.outcome import budget_outcome, budget_sentence, interval_words
from prefine.report.svg import Scale
from prefine.report.text import number, plural, share_text, span, with_unit

MAX_POINTS = 120
"""Points in a picture: it has no more room, and a page should open at once."""

P = TypeVar("P")
Chart = tuple[str, str, Markup]
"""A picture's title, its last value, and the picture."""

_ALARMS = {
    "collapse": "the likeliest tokens became fewer while the margin still rose",
    "diffusion": "probability leaked away from the likeliest tokens",
    "turn": "the entropy of the likeliest tokens had risen and turned",
}
AT_CHANCE = ("accuracy", "ranking_accuracy", "auc")


class Figure(NamedTuple):
    """A figure over training steps: what its picture is called, and the unit on its axis.

    `whole`: the axis goes from 0 to 100 %, wherever the values lie.
    """

    title: str
    name: str
    unit: str
    form: Callable[[float], str]
    whole: bool = False


class FigureValues(NamedTuple):
    """The values of a figure by training step, and those on held-out items."""

    figure: Figure
    known: Mapping[int, float]
    held_out: Mapping[int, float] = MappingProxyType({})


def _share(title: str, name: str) -> Figure:
    return Figure(title, name, "%", share_text, whole=True)


_ACCURACY = _share("Accuracy: chosen over rejected", "accuracy")
_MARGIN, _LOSS = Figure("Margin", "margin", "nats", number), Figure("Loss", "loss", "", number)
_GRADIENT_NORM = Figure("Gradient norm", "grad_norm", "", number)
CHARTS = (
    _share("Share of pairs beyond the budget", "beyond_delta"),
    _ACCURACY,
    _MARGIN,
    _LOSS,
    _GRADIENT_NORM,
)
HELD_OUT_CHARTS = (
    Figure("Entropy among likely tokens", "top_entropy_bits", "bits", number),
    Figure("Probability of likely tokens", "top_mass", "%", partial(share_text, decimals=1)),
)
_HELD_OUT_COLUMNS = {
    "loss": ("loss", 3),
    "margin": ("margin", 2),
    "accuracy": ("accuracy", 2),
    "chosen, change": ("chosen_change", 2),
    "fall": ("fall", 2),
    "rejected, change": ("rejected_change", 2),
    "entropy of likely tokens, bits": ("top_entropy_bits", 3),
    "their probability": ("top_mass", 3),
}
_ITEM_CHARTS = (
    _LOSS,
    _share("Ranking accuracy: comparisons of a list", "ranking_accuracy"),
    _share("AUC: good over bad answers", "auc"),
    _share("Accuracy: sign of the log-ratio", "accuracy"),
    _MARGIN,
    Figure("Best answers, change", "best_change", "nats", number),
    Figure("Worst answers, change", "worst_change", "nats", number),
    Figure("Good answers, change", "desirable_change", "nats", number),
    Figure("Bad answers, change", "undesirable_change", "nats", number),
    _GRADIENT_NORM,
)
_PAIR_CHARTS = (
    _LOSS,
    _ACCURACY,
    _MARGIN,
    Figure("Chosen answers, change", "chosen_change", "nats", number),
    Figure("Rejected answers, change", "rejected_change", "nats", number),
)
_REWARD_CHARTS = (
    _LOSS,
    _share("Accuracy: the better answer has the higher reward", "accuracy"),
    Figure("Margin of the better answer’s reward", "margin", "nats", number),
    Figure("Brier score", "brier", "", number),
    Figure("Expected calibration error", "calibration_error", "", number),
    Figure("Mean reward", "reward", "", number),
    Figure("Spread of the rewards", "reward_sd", "", number),
    _GRADIENT_NORM,
)
_signed = partial(number, signed=True)


@dataclass(frozen=True)
class CurveSection:
    """Charts over training steps, the sentence over them, and the table behind them.

    `main` is the large picture and `budget` names the budget line in it; `stop` says which alarm
    ended training.
    """

    finding: str
    charts: list[Chart]
    header: list[str]
    table: list[list[str]]
    note: str
    main: Markup | None = None
    budget: str = ""
    stop: str = ""


def training(data: ReportData) -> CurveSection | None:
    """Return the section on training, if there was any."""
    if not data.training:
        return None
    points, size = binned(data.training, MAX_POINTS)
    delta = data.delta_per_answer
    unseen = _thinned(data.evaluations)
    main, shown = _likelihood(points, delta, unseen)
    notes = [f"Each point is the mean of {size} steps."] if size > 1 else []
    if data.delta is not None and delta is None:
        notes.append(
            f"The budget is {number(data.delta)} nats per token: it grows with the answer and has "
            "no single line here."
        )
    elif delta is not None and not shown:
        notes.append(f"The budget line at {number(-delta)} nats lies outside this picture.")
    columns = _columns(points)
    return CurveSection(
        finding=_finding(data),
        charts=_charts(points, CHARTS, data.trained, unseen)
        + _charts(_thinned(data.budget_points), budget_charts(data.delta_per)),
        header=["step", *columns],
        table=[[number(p.step, 0), *(form(p) for form in columns.values())] for p in points],
        note=" ".join(notes),
        main=main,
        budget=f"budget, −delta = {number(-delta)} nats" if delta is not None and shown else "",
    )


def budget_charts(per: BudgetPer) -> tuple[Figure, ...]:
    """Return the figures of a controller that sets the weight of a budget."""
    return (
        Figure("Fall of the controller’s probe", "fall", fall_unit(per), number),
        Figure("Weight of the budget", "regularizer_weight", "", number),
    )


def binned(points: Sequence[TrainPoint], most: int) -> tuple[list[TrainPoint], int]:
    """Return at most so many points, each the mean of consecutive steps, and of how many."""
    size = max(1, math.ceil(len(points) / most))
    return [_mean(points[i : i + size]) for i in range(0, len(points), size)], size


def _mean(points: Sequence[TrainPoint]) -> TrainPoint:
    values: dict[str, float | None] = {}
    for name in TrainPoint.model_fields:
        known = [value for point in points if (value := getattr(point, name)) is not None]
        values[name] = fmean(known) if known else None
    return TrainPoint.model_validate(values | {"step": points[-1].step})


def _columns(points: Sequence[TrainPoint]) -> dict[str, Callable[[TrainPoint], str]]:
    columns: dict[str, Callable[[TrainPoint], str]] = {
        "loss": lambda p: number(p.loss, 3),
        "chosen, change": lambda p: _signed(p.chosen_change, 2),
        "rejected, change": lambda p: _signed(p.rejected_change, 2),
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


def change_interval(data: ReportData, side: Literal["chosen", "rejected"]) -> str:
    """Return the interval of the mean change of a side's answers over training, in words.

    There is none before the end of training, and in runs of earlier versions.
    """
    if data.trained is None:
        return interval_words(0.0, None)
    if side == "chosen":
        return interval_words(data.trained.chosen_change, data.trained.chosen_change_se)
    return interval_words(data.trained.rejected_change, data.trained.rejected_change_se)


def _finding(data: ReportData) -> str:
    last = data.trained or data.training[-1]
    chosen, rejected = (
        with_unit(number(change, 2, signed=True), "nats")
        for change in (last.chosen_change, last.rejected_change)
    )
    text = (
        f"After {plural(len(data.training), 'step')} the log-probability of the chosen answers of "
        f"the training pairs has changed by {chosen} ({change_interval(data, 'chosen')}), that of "
        f"the rejected ones by {rejected} ({change_interval(data, 'rejected')})."
    )
    if data.delta is None:
        return text
    beyond = last.beyond_delta
    text += (
        f" {share_text(beyond)} of these pairs lie beyond the budget." if beyond is not None else ""
    )
    return f"{text} {_budget(data)}"


def _budget(data: ReportData) -> str:
    if (found := budget_outcome(data)) is not None:
        return budget_sentence(found)
    assert data.delta is not None, "checked by the caller"
    return (
        f"Whether the budget of {number(data.delta)} nats was kept on other answers is not known: "
        "no pairs were held out."
    )


def _thinned(points: Sequence[P]) -> Sequence[P]:
    """Return at most `MAX_POINTS` of them, counted from the end, so that the last one is there."""
    return points[:: -_every(points)][::-1]


def _every(points: Sequence[P]) -> int:
    """The distance of the points that are shown."""
    return max(1, math.ceil(len(points) / MAX_POINTS))


def _likelihood(
    points: Sequence[TrainPoint], delta: float | None, unseen: Sequence[EvaluationPoint]
) -> tuple[Markup, bool]:
    """Draw the main picture, and say whether the budget line found room in it."""
    chosen = Curve("chosen", "chosen", [p.chosen_change for p in points], _signed)
    rejected = Curve("rejected", "rejected", [p.rejected_change for p in points], _signed)
    steps = [p.step for p in unseen]
    of_unseen = (
        [
            Curve(
                "held-out chosen",
                "chosen unseen",
                [p.chosen_change for p in unseen],
                _signed,
                steps,
            ),
            Curve(
                "held-out rejected",
                "rejected unseen",
                [p.rejected_change for p in unseen],
                _signed,
                steps,
            ),
        ]
        if unseen
        else []
    )
    band = Band("80 % of chosen", [-p.fall_high for p in points], [-p.fall_low for p in points])
    values = [0.0, *chosen.values, *rejected.values, *band.low, *band.high]
    values += [value for curve in of_unseen for value in curve.values]
    low, high = min(values), max(values)
    label = (
        f"Change of log-probability over {len(points)} points up to step {points[-1].step}: "
        f"chosen answers end at {_signed(chosen.values[-1])} nats, rejected at "
        f"{_signed(rejected.values[-1])} nats"
    )
    rule = None
    if delta is not None and has_room(-delta, low, high):
        values.append(-delta)
        rule = ReferenceLine(f"budget {number(-delta, signed=delta < 0)}", "budget", -delta)
        label += f", budget line at {number(-delta)} nats"
    drawn = line_chart(
        label,
        [p.step for p in points],
        [chosen, rejected, *of_unseen],
        axis=Scale.around(values),
        band=band,
        rule=rule,
        tick_count=7,
        title="nats per answer",
    )
    return drawn, rule is not None


def has_room(line: float, low: float, high: float) -> bool:
    """Return True if a line is so near to the values that a picture of both shows both."""
    return low - 2 * (high - low) <= line <= high + 1


def _charts(
    points: Sequence[TrainPoint | EvaluationPoint | BudgetPoint],
    figures: Sequence[Figure],
    end: TrainEnd | None = None,
    unseen: Sequence[EvaluationPoint] = (),
) -> list[Chart]:
    """Draw a curve over training steps for each figure that the points have.

    Held-out pairs are on the same axis. What has one point, or is 0 throughout, makes no picture.

    Beside a title stands the value at the end of training, if it was measured there, so that no
    other number is given for the same thing; else the last point's.
    """
    charts = []
    for one in figure_values(points, figures, unseen):
        title, last, drawn = _chart(one)
        measured = getattr(end, one.figure.name, None)
        charts.append((title, last if measured is None else one.figure.form(measured), drawn))
    return charts


def figure_values(
    points: Sequence[TrainPoint | EvaluationPoint | BudgetPoint],
    figures: Sequence[Figure],
    unseen: Sequence[EvaluationPoint] = (),
) -> list[FigureValues]:
    """Return the values of each figure that has a picture: two points or more, and not all 0."""
    found = []
    for figure in figures:
        name = figure.name
        known = {p.step: value for p in points if (value := getattr(p, name)) is not None}
        held_out = {p.step: value for p in unseen if (value := getattr(p, name, None)) is not None}
        if len(known) > 1 and any([*known.values(), *held_out.values()]):
            found.append(FigureValues(figure, known, held_out))
    return found


def _chart(one: FigureValues) -> Chart:
    """Draw one curve from its values by training step, and that of held-out pairs beside it."""
    title, name, unit, form, whole = one.figure
    steps, values, unseen = list(one.known), list(one.known.values()), one.held_out
    first, last = form(values[0]), form(values[-1])
    # The axis has the unit once, so that its ticks are plain numbers.
    factor = 100 if unit == "%" else 1
    scaled = [factor * value for value in [*values, *unseen.values()]]
    reading = (lambda value: form(value / factor)) if factor != 1 else form
    curves = [
        Curve(
            "training" if unseen else "",
            "training" if unseen else "chosen",
            scaled[: len(values)],
            reading,
        )
    ]
    if unseen:
        curves.append(
            Curve("held-out", "chosen unseen", scaled[len(values) :], reading, list(unseen))
        )
    drawn = line_chart(
        f"{title}: from {first} at step {steps[0]} to {last} at step {steps[-1]}",
        steps,
        curves,
        axis=Scale(0, 100) if whole else Scale.around(scaled),
        rule=ReferenceLine("", "middle", factor * 0.5) if name in AT_CHANCE else None,
        tick_count=4,
        title=unit,
    )
    return title, last, drawn


def item_charts(points: Sequence[ItemPoint], *, rewards: bool = False) -> list[Chart]:
    """Draw the curves of a training on lists or labelled answers, or of held-out ones.

    Of items of several kinds, the curves of all together, then those of each kind.

    Args:
        points: The steps or evaluations.
        rewards: They are those of a reward model, on any items.
    """
    return [_chart(one) for one in item_values(_thinned(points), rewards=rewards)]


def item_values(points: Sequence[ItemPoint], *, rewards: bool) -> list[FigureValues]:
    """Return the values of each figure of `item_charts`."""
    found = []
    names = [name for point in points for name in point.figures]
    for kind in dict.fromkeys(name.rpartition(".")[0] for name in names):
        figures = _PAIR_CHARTS if kind == "pairs" else _ITEM_CHARTS
        for figure in _REWARD_CHARTS if rewards else figures:
            name = f"{kind}.{figure.name}" if kind else figure.name
            title = f"{kind.capitalize()}: {figure.title}" if kind else figure.title
            known = {p.step: p.figures[name] for p in points if name in p.figures}
            if len(known) > 1:
                found.append(FigureValues(figure._replace(title=title), known))
    return found


def held_out(data: ReportData) -> CurveSection | None:
    """Return the part on held-out pairs, if they were evaluated during training."""
    if not data.evaluations:
        return None
    every, points = _every(data.evaluations), _thinned(data.evaluations)
    return CurveSection(
        finding=_held_out_finding(data.evaluations),
        charts=_charts(points, HELD_OUT_CHARTS),
        header=["step", *_HELD_OUT_COLUMNS],
        table=[
            [number(p.step, 0), *(_cell(p, *column) for column in _HELD_OUT_COLUMNS.values())]
            for p in points
        ],
        note=" ".join(
            [*([f"One evaluation in {every} is shown."] if every > 1 else []), *_alarms_on(data)]
        ),
        stop=_stop(data.trained, points[-1].step),
    )


def _alarms_on(data: ReportData) -> list[str]:
    """A sentence for each alarm of likelihood over-optimisation that was on."""
    found = []
    for alarm, words in _ALARMS.items():
        steps = [point.step for point in data.evaluations if getattr(point, alarm)]
        if steps:
            found.append(
                f"The alarm “{alarm}” was on at {plural(len(steps), 'evaluation')}, first after "
                f"{plural(steps[0], 'step')}: {words}."
            )
    return found


def _cell(point: EvaluationPoint, name: str, decimals: int) -> str:
    value = number(getattr(point, name), decimals)
    error = getattr(point, f"{name}_se", None)
    return value if error is None else f"{value} ± {number(error, decimals)}"


def _held_out_finding(points: Sequence[EvaluationPoint]) -> str:
    last = points[-1]
    return (
        f"On {plural(last.pairs, 'held-out pair')}, which are not trained on, the margin after "
        f"{plural(last.step, 'step')} is {with_unit(number(last.margin, 2), 'nats')} "
        f"({interval_words(last.margin, last.margin_se)})."
    )


def _stop(trained: TrainEnd | None, step: int) -> str:
    if trained is None or trained.stopped_by is None:
        return ""
    why = f": {_ALARMS[trained.stopped_by]}" if trained.stopped_by in _ALARMS else ""
    return f"The alarm “{trained.stopped_by}” ended training after {plural(step, 'step')}{why}."
