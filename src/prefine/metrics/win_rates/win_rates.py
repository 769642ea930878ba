"""Win rates over prompts, and the position-debiased win of one prompt."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Values, percentage
from prefine.records import MetricValue


class BothOrderWins(NamedTuple):
    """Wins of the prompts for which both orders have a verdict.

    Attributes:
        wins: P(the model is better), mean over both orders [k].
        answered: Which of the n prompts these are, in order [n].
        missing: How many prompts were left out, n - k.
    """

    wins: Array
    answered: npt.NDArray[np.bool_]
    missing: int


def win_rate(
    wins: npt.ArrayLike, *, samples: int = 2000, seed: int = 0, name: str = "win_rate"
) -> MetricValue:
    """The mean win over prompts, with standard error sd / sqrt(n) (ddof 1) and the 95 % `score_interval`.

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
    return percentage(name, wins, samples=samples, seed=seed)


def both_order_wins(p_first_when_first: Values, p_first_when_second: Values) -> BothOrderWins:
    """The mean over both orders of P(the model is better), by prompt; a preference for a slot cancels.

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
    if when_first.size != when_second.size:
        raise ValueError(
            f"{when_first.size} prompts in one order, but {when_second.size} in the other"
        )
    answered = ~(np.isnan(when_first) | np.isnan(when_second))
    wins = (when_first[answered] + 1 - when_second[answered]) / 2
    return BothOrderWins(wins, answered, int((~answered).sum()))


def verdicts(p_first: Values, *, name: str) -> Array:
    """P(first is better) as a new float array [n], NaN where there is no verdict.

    Raises:
        ValueError: Not one-dimensional, or a value is outside [0, 1].
    """
    array = np.array(p_first, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    bad = np.flatnonzero((array < 0) | (array > 1))
    if bad.size:
        raise ValueError(f"{name} must be in [0, 1], got {array[bad[0]]} at index {bad[0]}")
    return array
