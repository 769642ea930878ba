"""The mean of a table of seeds by prompts, with the uncertainty of both."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import score_interval
from prefine.metrics.statistics.values import Array, finite_values, refuse
from prefine.records import MetricValue

Bounds = tuple[float, float]


def mean_over_seeds(
    name: str,
    values: npt.ArrayLike,
    *,
    scale: float = 1.0,
    unit: str = "",
    bounds: Bounds | None = None,
) -> MetricValue:
    """The mean of values [seeds, prompts], such as paired differences of two settings.

    Seeds and prompts are both samples: a value is the sum of a seed's effect, a prompt's effect and
    a rest. The variance of the mean is that of the seeds' means plus that of the prompts' means,
    minus the rest's, which both hold; the interval is Student's, with the degrees of freedom of
    Satterthwaite. With one seed it says nothing about other seeds; with one prompt there is no
    interval.

    With `bounds` the interval never leaves them: it is `score_interval` for one seed, and for more
    the means mu with (mean - mu)^2 <= t^2 V(mu), where V is the variance at the mean, and shrinks
    towards the bounds as that of a binomial does. Values that are all the same have an interval,
    too.

    Args:
        name: Name of the metric.
        values: [S, P], the same prompts in the same order for every seed.
        scale: Factor of the values, such as 100 for percentages.
        unit: Their unit.
        bounds: The lowest and the highest value that is possible, such as (0, 1) for wins.

    Returns: `n` is the number of prompts.

    Raises:
        ValueError: There is no value, or one is not finite or outside its bounds.
    Source: the two-way random-effects analysis of variance; Satterthwaite (1946); Wilson (1927)
        for bounds, with the variance of clusters in place of the binomial one.
    """
    from scipy.special import stdtrit

    table = finite_values(values, name=name, ndim=2)
    if bounds is not None:
        low, high = bounds
        outside = (table < low) | (table > high)
        refuse(outside, table, f"must be in [{low:g}, {high:g}]", name=name)
    table = table * scale
    ends = None if bounds is None else (scale * bounds[0], scale * bounds[1])
    seeds, prompts = table.shape
    mean = float(table.mean())
    by_seed, by_prompt = table.mean(1), table.mean(0)
    if prompts == 1:
        return MetricValue(name=name, value=mean, n=prompts, unit=unit)
    parts = [(float(by_prompt.var(ddof=1)) / prompts, prompts - 1)]
    if seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    freedom = [part**2 / degrees for part, degrees in parts]
    if seeds > 1:
        rest = table - by_seed[:, None] - by_prompt + mean
        degrees = (seeds - 1) * (prompts - 1)
        of_rest = float((rest**2).sum()) / degrees / (seeds * prompts)
        # An estimate of a variance by a difference may be negative; it is never below its parts.
        variance = max(variance - of_rest, *(part for part, _ in parts))
        freedom.append(of_rest**2 / degrees)
    error = math.sqrt(variance)
    interval = None
    if ends is not None and (seeds == 1 or error == 0):
        low, high = ends
        shares = np.clip((by_prompt - low) / (high - low), 0, 1)  # rounding may leave [0, 1]
        first, last = score_interval(shares)
        interval = (low + (high - low) * first, low + (high - low) * last)
    elif error > 0:
        half = float(stdtrit(max(1.0, variance**2 / sum(freedom)), 0.975)) * error
        interval = (mean - half, mean + half) if ends is None else _inside(mean, half, ends)
    return MetricValue(
        name=name, value=mean, standard_error=error, interval=interval, n=prompts, unit=unit
    )


def _inside(mean: float, half: float, bounds: Bounds) -> Bounds:
    """The means whose own distance, half a width that shrinks towards the bounds, reaches `mean`.

    These are the mu with (mean - mu)^2 <= half^2 V(mu) / V(mean), V(mu) = (mu - low) (high - mu).
    """
    low, high = bounds
    share = (mean - low) / (high - low)
    room = share * (1 - share)
    spread = (half / (high - low)) ** 2 / room
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * room + spread**2 / 4) / (1 + spread)
    return (
        low + (high - low) * max(middle - reach, 0.0),
        low + (high - low) * min(middle + reach, 1.0),
    )


class BestOfMany(NamedTuple):
    """The best of several settings: which it is, and two estimates of its score.

    `naive` is its mean, which is too high, as it was chosen for its luck, too. `honest` is the
    score on one half of the prompts of the setting that is best on the other half, `chosen`.
    """

    best: int
    naive: MetricValue
    chosen: int
    honest: MetricValue


def best_of_many(
    name: str,
    scores: npt.ArrayLike,
    *,
    seed: int = 0,
    scale: float = 1.0,
    unit: str = "",
    bounds: Bounds | None = None,
) -> BestOfMany:
    """The setting with the highest mean, and its score on prompts that have not chosen it.

    One cut in two, and no cross-validation: the parts of one would share their choices, and their
    spread would say too little.

    Args:
        name: Name of the metric.
        scores: [K settings, S seeds, P prompts], the same prompts for all.
        seed: Seed of the cut.
        scale: Factor of the values.
        unit: Their unit.
        bounds: As for `mean_over_seeds`.

    Raises:
        ValueError: There are fewer than four prompts, or a value is not finite or outside its
            bounds.
    Source: sample splitting, Cox (1975), "A note on data-splitting for the evaluation of
        significance levels".
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or table.shape[2] < 4:
        raise ValueError(
            f"scores must be [settings, seeds, prompts] with at least 4 prompts, got shape "
            f"{table.shape}"
        )
    order = np.random.default_rng(seed).permutation(table.shape[2])
    choosing, scoring = order[::2], order[1::2]
    best = int(table.mean(axis=(1, 2)).argmax())
    chosen = int(table[:, :, choosing].mean(axis=(1, 2)).argmax())

    def mean(values: Array) -> MetricValue:
        return mean_over_seeds(name, values, scale=scale, unit=unit, bounds=bounds)

    return BestOfMany(best, mean(table[best]), chosen, mean(table[chosen][:, scoring]))
