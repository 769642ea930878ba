"""Rounds in which gold turns, and those in which the report warns that the judge is exploited."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from line import Line
from prefine.metrics.sweeps.seeds import mean_over_seeds
from prefine.rounds.figures import RoundFigures
from prefine.rounds.warnings import warnings_of

HONEST = "honest judge"
EXPLOITED = "The judge is being exploited"


def turns_of(rounds: Sequence[Mapping[str, Mapping[str, Any]]], parent: Path) -> dict[str, Any]:
    """Each round's gold over the best model before, and the rounds that are warned of.

    The differences are computed from the rows of the evaluations, not read from the report.

    Args:
        rounds: The rows of each round's evaluation by prompt.
        parent: The folder of all rounds.
    """
    after = [_gold(rows, "gold_after") for rows in rounds]
    models = [_gold(rounds[0], "gold_before"), *after]
    ids = sorted(set.intersection(*(set(one) for one in models)))
    turns = []
    for number in range(1, len(models)):
        best = max(range(number), key=lambda one: fmean(models[one][id_] for id_ in ids))
        differences = [models[number][id_] - models[best][id_] for id_ in ids]
        change = mean_over_seeds("gold", [differences])
        turns.append(
            {
                "round": number,
                "best_before": best,
                "change": change.value,
                "interval": change.interval or (change.value, change.value),
            }
        )
    summary = json.loads((parent / "rounds.json").read_text())
    figures = [RoundFigures.model_validate(one["figures"]) for one in summary["rounds"]]
    warned = [
        one.round
        for one in figures
        if any(text.startswith(EXPLOITED) for text in warnings_of([one]))
    ]
    return {"turns": turns, "warned": warned}


def _gold(rows: Mapping[str, Mapping[str, Any]], side: str) -> dict[str, float]:
    return {name: fmean(row[side].values()) for name, row in rows.items()}


def turn_line(row: Mapping[str, Any]) -> Line:
    """The gold score over the rounds of a trial; ok if it is warned in time, or rightly not.

    In time is at most one round after the first whose paired difference to the best one before lies
    below 0, interval included. With the honest judge any warning is a miss; with the other one
    nothing is said where gold has not turned.
    """
    turned = [one["round"] for one in row["turns"] if one["interval"][1] < 0]
    warned = row["warned"]
    ok = None
    if row["arm"] == HONEST:
        ok = not warned
    elif turned:
        ok = bool(warned) and warned[0] <= turned[0] + 1
    figure = "; ".join(
        f"{one['change']:+.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}] over "
        f"{one['best_before'] or 'initial'}"
        for one in row["turns"]
    )
    said = f"warned of {', '.join(map(str, warned))}" if warned else "no warning"
    what = f"{row['arm']}, seed {row['seed']}: gold, rounds 1, 2, …"
    return Line(what, f"{figure}; {said}", ok)
