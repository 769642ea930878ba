"""Warnings that a run's own figures call for; report, terminal and `--json` show the same ones."""

from collections.abc import Sequence
from typing import NamedTuple

from prefine.records import MetricValue
from prefine.report.data import BudgetPoint, ReportData
from prefine.report.outcome import EXPLOITED, MORE_TRAINING, alarm, budget_outcome
from prefine.report.text import interval_text, number, plural, value_text

MANY_CUT, MANY_ALIKE = 5.0, 10.0
"""The share of answers, in %, from which their being cut, empty or alike is a warning."""

_EXPLODED = 10.0
# What the chosen answers of lists and labels are called in logs, and those of mixtures.
_GOOD = ("best", "desirable", "pairs.chosen", "lists.best", "labels.desirable")
_NATS = 10.0  # Short answers may lose some without harm.
_ALIKE = {
    "empty_answers": "are empty",
    "repeated_answers": "are word for word the answer to another prompt: the model has collapsed",
}


def warnings_of(data: ReportData) -> list[str]:
    """Return the warnings about a run, each a sentence with its numbers, most serious first."""
    found = []
    if said := alarm(data.contests):
        found.append(f"{EXPLOITED}. {said}. {MORE_TRAINING}")
    found += _training(_steps(data))
    if (budget := budget_outcome(data)) is not None and budget.verdict == "exceeded":
        fell = f"{number(budget.held_out.value, 2)} ({interval_text(budget.held_out, 2)})"
        remedy = (
            "Lower the learning rate, or train for less long."
            if data.budget_points
            else "The budget holds on the training pairs that it is applied to; lower delta, raise "
            "train.regularizer_weight, or train for less long."
        )
        found.append(
            f"The budget of {number(budget.delta)} {budget.unit} is exceeded on {budget.item}s: "
            f"their chosen answers fell by {fell}. {remedy}"
        )
    found += _automatic(data.budget_points)
    if data.trained is not None and data.trained.stopped_by is not None:
        steps = plural(len(data.training), "step")
        found.append(f"The alarm “{data.trained.stopped_by}” ended training after {steps}.")
    return found + _answers({metric.name: metric for metric in data.metrics})


def _automatic(points: tuple[BudgetPoint, ...]) -> list[str]:
    """Say that the controller of a budget could not hold it, or had nothing to do."""
    if not points:
        return []
    if any(point.infeasible for point in points) or points[-1].at_largest:
        return [
            "The budget is infeasible: more weight no longer lowers the fall of unseen answers. "
            "Lower the learning rate, train for less long, or raise delta."
        ]
    if not any(point.regularizer_weight for point in points):
        return ["The budget never bound: its weight was 0 throughout."]
    return []


class _Reading(NamedTuple):
    """A step's loss, and the log-probability of its chosen answers now and at the start, nats."""

    step: int
    loss: float
    logp: float | None
    before: float | None


def _steps(data: ReportData) -> list[_Reading]:
    """Return the steps of a training on pairs, lists, labels or several of them."""
    if data.training:
        return [
            _Reading(one.step, one.loss, one.chosen_logp, one.chosen_logp - one.chosen_change)
            for one in data.training
        ]
    found = []
    for point in data.item_training:
        figures = point.figures
        side = next((side for side in _GOOD if f"{side}_logp" in figures), None)
        logp = None if side is None else figures[f"{side}_logp"]
        before = None if logp is None else logp - figures[f"{side}_change"]
        found.append(_Reading(point.step, figures["loss"], logp, before))
    return found


def _training(steps: Sequence[_Reading]) -> list[str]:
    if len(steps) < 2:
        return []
    first, worst, last = steps[0], max(steps, key=lambda one: one.loss), steps[-1]
    if worst.loss > _EXPLODED * max(abs(first.loss), 1.0):
        return [
            f"The loss rose from {number(first.loss)} at step {first.step} to "
            f"{number(worst.loss)} at step {worst.step}: training has diverged; lower "
            "train.learning_rate."
        ]
    # A model may forget what it could write while its loss falls to 0.
    if last.logp is None or last.before is None:
        return []
    if last.logp >= -_EXPLODED * max(-last.before, _NATS):
        return []
    return [
        f"The log-probability of the chosen answers fell from {number(last.before)} to "
        f"{number(last.logp)} nats at step {last.step}: the model no longer writes text, "
        "whatever the loss says; lower train.learning_rate."
    ]


def _answers(metrics: dict[str, MetricValue]) -> list[str]:
    found = []
    cut = [metrics.get(f"cut_answers_{when}") for when in ("before", "after")]
    if any(share is not None and share.value >= MANY_CUT for share in cut):
        old, new = (_with_interval(share) if share else "none" for share in cut)
        found.append(
            f"{old} of the answers before training and {new} after were cut at the length limit: "
            "they were judged without their end. Raise evaluate.decoding.max_new_tokens."
        )
    for name, what in _ALIKE.items():
        before, after = (metrics.get(f"{name}_{when}") for when in ("before", "after"))
        if before and after and after.value >= MANY_ALIKE and after.value > before.value:
            found.append(
                f"{_with_interval(after)} of the answers after training {what}; before "
                f"training {_with_interval(before)}."
            )
    return found


def _with_interval(metric: MetricValue) -> str:
    interval = interval_text(metric)
    return f"{value_text(metric)} ({f'interval {interval}' if interval else 'no interval'})"
