"""The figures of a sweep: paired differences, the best setting, the hill."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import JsonValue

from prefine.config.sweep import Setting
from prefine.errors import DataError
from prefine.metrics.statistics.values import Array
from prefine.metrics.sweeps.optimum import quadratic_optimum
from prefine.metrics.sweeps.seeds import BestOfMany, best_of_many, mean_over_seeds
from prefine.metrics.win_rates.win_rates import win_of
from prefine.records import MetricValue, Record
from prefine.run.view import RunView
from prefine.sweep.growth import FRACTION, Growth, growths
from prefine.sweep.trials import Sweep, Trial

_DECADE = 10
"""Values that are further apart than this are taken by their logarithms."""


class SettingResult(Record):
    """One setting over its seeds.

    `win_rate` is against the baseline of the evaluation, in %; `difference` is that to the setting
    called `baseline` in points, on the same prompts and seeds, and None where that is the setting
    itself. `items` is how many it was trained on, on
    average over seeds. `fall` is that of the chosen answers
    trained on, `held_out_fall` of those held out, in nats; their uncertainty is that over seeds.
    """

    name: str
    values: dict[str, JsonValue]
    seeds: tuple[int | None, ...]
    items: float
    baseline: str | None = None
    win_rate: MetricValue | None = None
    difference: MetricValue | None = None
    fall: MetricValue | None = None
    held_out_fall: MetricValue | None = None


class Hill(Record):
    """A parabola through the win rates over one numeric setting; see `quadratic_optimum`.

    With `log` it is over the decimal logarithm of the value. An end of the interval is None where
    there is no end; without `top` the results show no hill.
    """

    path: str
    log: bool
    top: float | None
    interval: tuple[float | None, float | None] | None
    coefficients: tuple[float, float, float] | None


class SweepResult(Record):
    """A sweep in figures.

    `baseline` is the setting that others are compared with: the first one, where there are several.
    `best` is the setting with the highest mean; its mean is too high, as it was chosen for its
    luck, too. `best_score` is the win rate on half of the prompts of the setting that is best on
    the other half, `best_on_half`.
    """

    scored_by: Literal["gold", "judge"] | None
    prompts: int
    baseline: str
    settings: tuple[SettingResult, ...]
    best: str | None = None
    best_on_half: str | None = None
    best_score: MetricValue | None = None
    hills: tuple[Hill, ...] = ()
    growths: tuple[Growth, ...] = ()
    notes: tuple[str, ...] = ()

    def baseline_of(self, setting: SettingResult) -> str:
        """The name of the setting that this one is compared with; its own for a baseline."""
        return setting.baseline or self.baseline


class _Read(NamedTuple):
    """The results of a finished trial: scores by prompt, and the falls."""

    trial: Trial
    scored_by: Literal["gold", "judge"] | None
    scores: dict[str, float]
    items: int
    fall: float | None
    held_out_fall: float | None


def results(sweep: Sweep) -> SweepResult:
    """The figures of all trials, which have ended.

    Raises:
        DataError: A trial has not ended, or they were scored in different ways.
    """
    read = [_read(trial) for trial in sweep.trials]
    kinds = {one.scored_by for one in read}
    if len(kinds) > 1:
        raise DataError("sweep: some trials have gold scores and others do not; compare neither")
    prompts = sorted(set.intersection(*(set(one.scores) for one in read)))
    notes = []
    if missing := len(set.union(*(set(one.scores) for one in read))) - len(prompts):
        notes.append(f"{missing} prompts have no score in some trial, and are left out of all")
    seeds = sweep.config.seeds or (None,)
    if len(seeds) == 1:
        notes.append("one seed: the intervals say nothing about other seeds")
    table = np.array([[one.scores[prompt] for prompt in prompts] for one in read])
    table = table.reshape(len(sweep.names), len(seeds), len(prompts))
    baselines = sweep.config.baselines
    found = []
    for index, (name, values) in enumerate(zip(sweep.names, sweep.config.settings, strict=True)):
        base = baselines[index]
        mine = [one for one in read if one.trial.setting == index]
        found.append(
            SettingResult(
                name=name,
                values=dict(values),
                seeds=tuple(seeds),
                items=fmean(one.items for one in mine),
                baseline=sweep.names[base],
                win_rate=_win_rate("win_rate", table[index]) if prompts else None,
                difference=(
                    _win_rate("difference", table[index] - table[base])
                    if prompts and index != base
                    else None
                ),
                fall=_over_seeds("fall", [one.fall for one in mine]),
                held_out_fall=_over_seeds("held_out_fall", [one.held_out_fall for one in mine]),
            )
        )
    best: BestOfMany | None = None
    hills: tuple[Hill, ...] = ()
    growing: tuple[Growth, ...] = ()
    if len(prompts) >= 4 and len(sweep.names) >= 2:
        best = best_of_many("win_rate", table, scale=100, unit="%", bounds=(0, 1))
        hills = tuple(_hills(sweep.config.settings, table.mean(2)))
        sizes = np.array([one.items for one in read], dtype=np.float64).reshape(table.shape[:2])
        growing = tuple(growths(sweep.config.settings, table.mean(2), sizes))
    return SweepResult(
        scored_by=next(iter(kinds)),
        prompts=len(prompts),
        baseline=sweep.names[min(baselines)],
        settings=tuple(found),
        best=best and sweep.names[best.best],
        best_on_half=best and sweep.names[best.chosen],
        best_score=best and best.honest,
        hills=hills,
        growths=growing,
        notes=tuple(notes),
    )


def _read(trial: Trial) -> _Read:
    run = RunView(trial.config.run_dir)
    manifests = run.manifests()
    last = manifests.get("report")
    if last is None or not last.complete:
        raise DataError(f"{run.path}: this trial has not ended; run the sweep again")
    outcomes = run.outcomes()
    gold = bool(outcomes) and all(one["gold_after"] is not None for one in outcomes)
    judged = any(one["p_after"] is not None for one in outcomes)
    scores = {
        one["prompt_id"]: _gold_score(one) if gold else float(one["p_after"])
        for one in outcomes
        if gold or one["p_after"] is not None
    }
    trained, evaluated = run.json("train_final.json"), run.log("eval_log.jsonl")
    return _Read(
        trial,
        "gold" if gold else "judge" if judged else None,
        scores,
        manifests["pair"].counts.produced,
        None if trained is None else trained["final"].get("fall"),
        evaluated[-1].get("fall") if evaluated else None,
    )


def _gold_score(outcome: Mapping[str, Any]) -> float:
    """1 if the trained model's answer has the higher gold score, .5 if both have the same."""
    return win_of(fmean(outcome["gold_after"].values()) - fmean(outcome["gold_before"].values()))


def _win_rate(name: str, table: Array) -> MetricValue:
    if name == "win_rate":
        return mean_over_seeds(name, table, scale=100, unit="%", bounds=(0, 1))
    return mean_over_seeds(name, table, scale=100, unit="points", bounds=(-1, 1))


def _over_seeds(name: str, values: Sequence[float | None]) -> MetricValue | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    # As one row, so that its columns, the seeds, are what is sampled.
    return mean_over_seeds(name, [known], unit="nats")


def _hills(settings: Sequence[Setting], means: Array) -> Iterator[Hill]:
    """A parabola for each numeric path with three values or more; other paths are averaged out.

    The share of the data has a curve of its own.

    Args:
        settings: The K settings.
        means: Mean score of each trial [K, S], in [0, 1].
    """
    for path in dict.fromkeys(path for setting in settings for path in setting):
        if path == FRACTION:
            continue
        numbers = [number_at(setting, path) for setting in settings]
        values = {i: value for i, value in enumerate(numbers) if value is not None}
        different = sorted(set(values.values()))
        if len(different) < 3 or len(values) * means.shape[1] < 4:
            continue
        log = different[0] > 0 and different[-1] / different[0] >= _DECADE
        x, y = [], []
        groups: dict[str, list[int]] = {}
        for i in values:
            others = {key: value for key, value in settings[i].items() if key != path}
            groups.setdefault(json.dumps(others, sort_keys=True), []).append(i)
        middle = float(means[list(values)].mean())
        for members in groups.values():
            shift = middle - float(means[members].mean())
            for i in members:
                x += [place_of(values[i], log=log)] * means.shape[1]
                y += (100 * (means[i] + shift)).tolist()
        found = quadratic_optimum(x, y)
        if found is None:
            yield Hill(path=path, log=log, top=None, interval=None, coefficients=None)
            continue
        ends = None
        if found.interval is not None:
            ends = tuple(_unlogged(end, log) for end in found.interval)
        yield Hill(
            path=path,
            log=log,
            top=_unlogged(found.value, log),
            interval=ends,
            coefficients=found.coefficients,
        )


def _unlogged(value: float, log: bool) -> float | None:
    try:
        found = 10**value if log else value
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def number_at(values: Setting, path: str) -> float | None:
    """The number that a setting has at a path; None where it has none."""
    value = values.get(path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def place_of(value: float, *, log: bool) -> float:
    """Where a value lies on the axis of a hill."""
    return math.log10(value) if log else value
