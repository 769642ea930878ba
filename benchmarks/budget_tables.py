"""The tables of the benchmark of the automatic budget, from its finished trials."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from line import Line

Rows = Sequence[Mapping[str, Any]]
CHOOSING = 400
"""Test prompts that choose the weight which is best by hand; those behind them compare it."""


def show(path: Path) -> None:
    """Print how far unseen answers fell under each lever, and what it cost in gold."""
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    compared: dict[tuple[str, float | None], list[Any]] = defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        trial = row["trial"]
        if trial.get("test", CHOOSING) > CHOOSING:
            compared[trial["lever"], trial["weight"]].append(row)
            continue
        arm = trial["loss"], trial["options"], trial["schedule"], trial["epochs"]
        groups[(*arm, trial["lever"], trial["delta"], trial["weight"])].append(row)
    for key in sorted(groups, key=str):
        rows = groups[key]
        plain = groups.get((*key[:4], "none", None, None), [])
        print(_promise(key, rows, plain))
        print(_gold(rows, plain))
    if compared:
        _show_tuned(compared)


def _name(key: tuple[Any, ...]) -> str:
    loss, options, schedule, epochs, lever, delta, weight = key
    beta = json.loads(options).get("beta")
    name = f"{loss}{'' if beta is None else f' beta {beta}'} {epochs} epochs"
    name += "" if schedule == "linear" else f" {schedule}"
    name += f": {lever}" + (
        "" if delta is None else f" delta {delta if delta == 'auto' else format(delta, 'g')}"
    )
    return name + ("" if weight is None else f" weight {weight:g}")


def _spread(values: Sequence[float], form: str) -> str:
    """The mean and its standard error over seeds."""
    error = f" ± {format(stdev(values) / math.sqrt(len(values)), form)}" if len(values) > 1 else ""
    return f"{format(fmean(values), form)}{error}"


def _promise(key: tuple[Any, ...], rows: Rows, plain: Rows) -> Line:
    """The fall of the third set; a goal where a budget was set and the plain run falls further."""
    delta, automatic = key[5], key[6] is None
    falls = [row["third"] for row in rows]
    peak = max(max(row["peak"], row["third"]) for row in rows)
    figure = f"{len(rows)} seeds, third set falls {_spread(falls, '.2f')}, peak {peak:.2f}"
    figure += f", training {_spread([row['training'] for row in rows], '.2f')}"
    if automatic and delta is not None:
        figure += f", weight {fmean(row['weight'] for row in rows):.3f}"
    goal = None
    if delta == "auto":
        figure += f", kept delta {_spread([row['kept_delta'] for row in rows], '.2f')} of step "
        figure += ", ".join(str(row["kept_step"]) for row in rows)
    elif automatic and delta is not None and plain:
        free = fmean(row["third"] for row in plain)
        if free >= 1.5 * delta:
            goal = (
                abs(fmean(falls) / delta - 1) <= 0.2
                and all(abs(fall / delta - 1) <= 0.35 for fall in falls)
                and peak <= 1.5 * delta
            )
        figure += f" (plain {free:.2f})"
    return Line(_name(key), figure, goal)


def _gold(rows: Rows, plain: Rows) -> Line:
    """Gold win rate over the initial policy, paired with the plain run of the same seed."""
    by_seed = {row["trial"]["seed"]: row for row in plain}
    figure = f"gold {_spread([row['gold'] for row in rows], '.1f')} %, accuracy "
    figure += _spread([row["accuracy"] for row in rows], ".3f")
    differences = [
        50 * (int(one) - int(other))
        for row in rows
        if (free := by_seed.get(row["trial"]["seed"])) is not None and free is not row
        for one, other in zip(row["wins"], free["wins"], strict=True)
    ]
    if differences:
        error = stdev(differences) / math.sqrt(len(differences))
        figure += f", minus plain {fmean(differences):+.1f} ± {error:.1f} over prompts"
    return Line("", figure)


def _show_tuned(compared: Mapping[tuple[str, float | None], Rows]) -> None:
    """Print automatic weights against the best weight by hand, on prompts that chose nothing."""
    by_hand = {key: rows for key, rows in compared.items() if key[1] is not None}
    for (lever, weight), rows in compared.items():
        figure = f"{len(rows)} seeds, gold {_spread([_choosing(row) for row in rows], '.1f')} % on "
        figure += f"the prompts that choose, {_spread([_comparing(row) for row in rows], '.1f')} %"
        figure += (
            f" on the others, third set falls {_spread([row['third'] for row in rows], '.2f')}"
        )
        print(Line(f"{lever} {'auto' if weight is None else f'weight {weight:g}'}", figure))
    for automatic in sorted(lever for lever, weight in compared if weight is None):
        for family in ("hinge", "nll", ""):
            tried = {key: rows for key, rows in by_hand.items() if key[0].startswith(family)}
            if tried:
                best = max(tried, key=lambda key: fmean(_choosing(row) for row in tried[key]))
                title = (
                    f"auto at {automatic} minus best of {family or 'all'}, {best[0]} {best[1]:g}"
                )
                print(_against(title, compared[automatic, None], tried[best], len(tried)))


def _choosing(row: Mapping[str, Any]) -> float:
    return 50 * fmean(int(win) for win in row["wins"][:CHOOSING])


def _comparing(row: Mapping[str, Any]) -> float:
    return 50 * fmean(int(win) for win in row["wins"][CHOOSING:])


def _against(title: str, automatic: Rows, best: Rows, runs: int) -> Line:
    """The paired difference in points; the wider of its intervals over seeds and over prompts."""
    by_seed = {row["trial"]["seed"]: row for row in best}
    pairs = [
        (row, by_seed[row["trial"]["seed"]]) for row in automatic if row["trial"]["seed"] in by_seed
    ]
    over_seeds = [_comparing(one) - _comparing(other) for one, other in pairs]
    over_prompts = [
        50 * fmean(int(one) - int(other) for one, other in zip(wins[::2], wins[1::2], strict=True))
        for wins in zip(*(row["wins"][CHOOSING:] for pair in pairs for row in pair), strict=True)
    ]
    intervals = [_interval(values) for values in (over_seeds, over_prompts) if len(values) > 1]
    low, high = max(intervals, key=lambda one: one[1] - one[0])
    figure = (
        f"{fmean(over_seeds):+.1f} points [{low:.1f}, {high:.1f}] over {len(pairs)} seeds; runs"
    )
    figure += f" a seed: 1 and {runs}"
    return Line(title, figure, low > -2)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
