"""Win rates of preferences in [0, 1], with draws and missing annotations counted."""

from typing import NamedTuple

import numpy as np

from prefine.metrics.statistics.intervals import Array, Values
from prefine.metrics.win_rates.win_rates import verdicts, win_rate
from prefine.records import MetricValue

DRAW = 0.5


class PreferenceRates(NamedTuple):
    """What n annotated preferences say; each rate in %.

    Attributes:
        win_rate: Mean preference.
        discrete_win_rate: Mean of 1 for a preference above 1/2, 0 below, and 1/2 for a draw, which
            is 1/2 exactly.
        decided_win_rate: Wins among wins and losses; `n` is their number. None where all are draws.
        draw_rate: Draws among all.
        wins: Preferences above 1/2.
        losses: Preferences below 1/2.
        draws: Preferences of exactly 1/2.
        missing: Rows without an annotation; they are in none of the other numbers.
    """

    win_rate: MetricValue
    discrete_win_rate: MetricValue
    decided_win_rate: MetricValue | None
    draw_rate: MetricValue
    wins: int
    losses: int
    draws: int
    missing: int


def preference_rates(preferences: Values) -> PreferenceRates:
    """Plain, discrete and tie-aware win rates of one model against one baseline.

    Args:
        preferences: P(the model is better) of each prompt [n], in [0, 1]; None or NaN for no
            annotation.

    Raises:
        ValueError: No annotation, or a value outside [0, 1].
    Source: win rate, standard error sd / sqrt(n) (ddof 1) and discrete win rate as in AlpacaEval 2;
        the tie-aware rates are ours.
    """
    given = verdicts(preferences, name="preferences")
    known = given[~np.isnan(given)]
    if not known.size:
        raise ValueError(f"preferences: none of {given.size} rows has an annotation")
    decided = known[known != DRAW] > DRAW
    wins, losses = int(decided.sum()), int((~decided).sum())
    return PreferenceRates(
        win_rate=win_rate(known),
        discrete_win_rate=win_rate((np.sign(known - DRAW) + 1) / 2, name="discrete_win_rate"),
        decided_win_rate=win_rate(decided, name="decided_win_rate") if decided.size else None,
        draw_rate=win_rate(known == DRAW, name="draw_rate"),
        wins=wins,
        losses=losses,
        draws=known.size - wins - losses,
        missing=given.size - known.size,
    )


def from_one_to_two(values: Values) -> Array:
    """Preferences [n] in [0, 1] of AlpacaEval's in [1, 2], where 2 is the model, 1.5 and 0 a draw; NaN stays.

    Raises:
        ValueError: A value is none of these, such as a verdict of -1 for an answer that could not
            be read.
    Source: the convention of https://github.com/tatsu-lab/alpaca_eval.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"preferences must be one-dimensional, got shape {array.shape}")
    bad = np.flatnonzero(~(np.isnan(array) | (array == 0) | ((array >= 1) & (array <= 2))))
    if bad.size:
        raise ValueError(
            "preferences must be in [1, 2], 0 for a draw or NaN for no annotation, got "
            f"{array[bad[0]]} at index "
            f"{bad[0]} ({bad.size} of {array.size} like this)"
        )
    return np.where(array == 0, DRAW, array - 1)
