"""Win rates over prompts, the position-debiased win of one prompt, and draws."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percentage
from prefine.metrics.statistics.values import Array, Bools, Values, refuse, same_size, verdicts
from prefine.records import MetricValue

DRAW = 0.5


_ROUNDING = 1e-9


class PreferenceRates(NamedTuple):
    """Win rates of n annotated preferences, each in %.

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


class BothOrderWins(NamedTuple):
    """Wins of the prompts for which both orders have a verdict.

    Attributes:
        wins: P(the model is better), mean over both orders [k].
        answered: Which of the n prompts these are, in order [n].
        missing: How many prompts were left out, n - k.
    """

    wins: Array
    answered: Bools
    missing: int


def win_of(gap: float) -> float:
    """Return 1 if a difference of scores is above 0, 0 below, and 1/2 if it is only rounding."""
    return 0.5 if abs(gap) < _ROUNDING else float(gap > 0)


def win_rate(
    wins: npt.ArrayLike, *, samples: int = 2000, seed: int = 0, name: str = "win_rate"
) -> MetricValue:
    """The mean win over prompts in %, with standard error and 95 % `score_interval`.

    The standard error is sd / sqrt(n) (ddof 1).

    Args:
        wins: P(the model is better) of each prompt [n], in [0, 1]; a tie is 1/2.
        samples: Without effect, as nothing is drawn at random; other metrics have it.
        seed: The same.
        name: Name of the metric.

    Returns: The win rate in %; for a single prompt without error and interval.

    Raises:
        ValueError: No prompt, or a value that is not in [0, 1].
    Source: standard error as in AlpacaEval 2; the interval is ours.
    """
    return percentage(name, wins)


def both_order_wins(p_first_when_first: Values, p_first_when_second: Values) -> BothOrderWins:
    """The mean over both orders of P(the model is better); a preference for a slot cancels.

    A prompt with a verdict in one order only is left out and counted: the one that is there carries
    the judge's preference for a slot.

    Args:
        p_first_when_first: P(first is better) with the model shown first [n]; None or NaN for no
            verdict.
        p_first_when_second: P(first is better) with the model shown second [n]; None or NaN for no
            verdict.

    Raises:
        ValueError: The two differ in length, or a value is outside [0, 1].
    """
    when_first = verdicts(p_first_when_first, name="p_first_when_first")
    when_second = verdicts(p_first_when_second, name="p_first_when_second")
    same_size(p_first_when_first=when_first, p_first_when_second=when_second)
    answered = ~(np.isnan(when_first) | np.isnan(when_second))
    wins = (when_first[answered] + 1 - when_second[answered]) / 2
    return BothOrderWins(wins, answered, int((~answered).sum()))


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
    """Preferences [n] in [0, 1] of AlpacaEval's in [1, 2]; NaN stays.

    There 2 is the model, 1.5 and 0 a draw.

    Raises:
        ValueError: A value is none of these, such as a verdict of -1 for an answer that could not
            be read.
    Source: the convention of https://github.com/tatsu-lab/alpaca_eval.
    """
    array = np.atleast_1d(np.array(values, dtype=np.float64))
    known = np.isnan(array) | (array == 0) | ((array >= 1) & (array <= 2))
    rule = "must be in [1, 2], 0 for a draw or NaN for no annotation"
    refuse(~known, array, rule, name="preferences")
    return np.where(array == 0, DRAW, array - 1)
