"""The report on held-out pairs during training: how they went, whether they ended it, and the numbers behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefine.report.data import EvaluationPoint, ReportData
from prefine.report.sections.training import ACCURACY, MARGIN, MAX_POINTS, UNIT, Chart, small_chart
from prefine.report.svg import number, plural, share_text

_ALARMS = {
    "collapse": "the likeliest tokens became fewer while the margin still rose",
    "diffusion": "probability leaked away from the likeliest tokens",
}


@dataclass(frozen=True)
class HeldOutSection:
    """The pictures of the held-out pairs, and the sentence over them."""

    finding: str
    stop: str
    charts: list[Chart]
    note: str
    header: list[str]
    table: list[list[str]]


def held_out(data: ReportData) -> HeldOutSection | None:
    """The part on held-out pairs, if they were evaluated during training."""
    if not data.evaluations:
        return None
    every = math.ceil(len(data.evaluations) / MAX_POINTS)
    # Counted from the end, so that the last one is there.
    points = data.evaluations[::-every][::-1]
    return HeldOutSection(
        finding=_finding(data.evaluations),
        stop=_stop(data.trained.stopped_by, points[-1].step)
        if data.trained and data.trained.stopped_by
        else "",
        charts=_charts(points),
        note=f"One evaluation in {every} is shown." if every > 1 else "",
        header=["step", *_COLUMNS],
        table=[
            [number(p.step, 0), *(_cell(p, *column) for column in _COLUMNS.values())]
            for p in points
        ],
    )


def _finding(points: Sequence[EvaluationPoint]) -> str:
    first, last = points[0], points[-1]
    text = f"On {plural(last.pairs, 'held-out pair')}, which are not trained on, "
    if first.step == last.step:
        return f"{text}the margin is {number(last.margin)} nats at step {last.step}."
    return (
        f"{text}the margin went from {number(first.margin)} to {number(last.margin)} nats between "
        f"step {first.step} "
        f"and step {last.step}, the accuracy from {share_text(first.accuracy)} to "
        f"{share_text(last.accuracy)}."
    )


def _stop(alarm: str, step: int) -> str:
    why = f": {_ALARMS[alarm]}" if alarm in _ALARMS else ""
    return f"The alarm “{alarm}” ended training after {plural(step, 'step')}{why}."


def _charts(points: Sequence[EvaluationPoint]) -> list[Chart]:
    steps = [p.step for p in points]
    return [
        small_chart(ACCURACY, steps, [p.accuracy for p in points], share_text, UNIT, 0.5),
        small_chart(MARGIN, steps, [p.margin for p in points]),
        small_chart("Loss", steps, [p.loss for p in points]),
        small_chart("Chosen, change [nats]", steps, [p.chosen_change for p in points]),
        small_chart(
            "Entropy among likely tokens [nats]",
            steps,
            [p.top_entropy_renormalised for p in points],
        ),
        small_chart("Probability of likely tokens", steps, [p.top_mass for p in points], _percent),
    ]


_COLUMNS = {
    "loss": ("loss", 3),
    "margin": ("margin", 2),
    "accuracy": ("accuracy", 2),
    "chosen, change": ("chosen_change", 2),
    "rejected, change": ("rejected_change", 2),
    "entropy of likely tokens": ("top_entropy_renormalised", 3),
    "their probability": ("top_mass", 3),
}


def _cell(point: EvaluationPoint, name: str, decimals: int) -> str:
    error = getattr(point, f"{name}_se", None)
    return number(getattr(point, name), decimals) + (
        "" if error is None else f" ± {number(error, decimals)}"
    )


def _percent(value: float) -> str:
    return f"{number(100 * value, 1)}\u00a0%"
