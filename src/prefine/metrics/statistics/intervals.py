"""Means with 95 % intervals: a score interval for values in [0, 1], else the bootstrap."""

import math

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.normal import NORMAL_QUANTILE
from prefine.metrics.statistics.resampling import (
    Resampling,
    by_group,
    measured,
    ratio_draws,
    spread,
)
from prefine.metrics.statistics.values import Array, Groups, finite_values, probabilities
from prefine.records import MetricValue

# The variance's slope that takes the skewness out of a studentised mean to the second order, see
# `score_interval`.
_SLOPE = 2 / 3 + 1 / (3 * NORMAL_QUANTILE**2)
# The variance of equal values is rounding only.
_SAME = 1e-24


def score_interval(values: npt.ArrayLike, *, groups: Groups | None = None) -> tuple[float, float]:
    """The 95 % interval of a mean of values in [0, 1], also where nearly all of them are 0 or 1.

    Every mean mu with (m - mu)^2 <= t^2 V(mu) / G, where m is the observed mean, t the 97.5 %
    quantile of Student's t and V a quadratic: V(m) is the values' variance; its slope at m is their
    third central moment over the variance, times 2/3 + 1/(3 z^2), z = 1.96; its curvature is that
    of the binomial variance, so that V shrinks towards 0 and 1. On 0s and 1s, with z for t and
    without the factor, this is Wilson's interval. Values that are all the same make no point: those
    that are all 0, or all 1, are taken as binomial; around another value m there is room for as
    many unseen values of 0 (or 1) as that interval gives.

    Args:
        values: [n], in [0, 1].
        groups: Group of each value [n]; then G groups count, by their sums around the mean. None: G
            = n.

    Returns: (low, high), inside [0, 1].

    Raises:
        ValueError: No value, one outside [0, 1], lengths that differ, or fewer than two groups.
    Source: score interval of Wilson (1927); the factor makes its second-order error that of Hall
        (1992), "On the removal of skewness by transformation", at the 95 % level. The combination
        is ours; docs/metrics.md says how often it covers.
    """
    return ratio_interval(*by_group(probabilities(values, name="values"), groups))


def ratio_interval(sums: Array, counts: Array) -> tuple[float, float]:
    """The `score_interval` of sum(sums) / sum(counts) over groups [G].

    Args:
        sums: Weighted sum of each group's values, which are in [0, 1].
        counts: Sum of their weights.

    Raises:
        ValueError: Fewer than two groups.
    """
    from scipy.special import stdtrit

    if sums.size < 2:
        raise ValueError(
            "an interval needs at least two groups; one group has no measurable spread"
        )
    size, mean = sums.size, float(sums.sum() / counts.sum())
    around = (sums - mean * counts) * (size / float(counts.sum()))
    variance, third, binomial = (
        float(np.mean(around**2)),
        float(np.mean(around**3)),
        mean * (1 - mean),
    )
    t2 = float(stdtrit(size - 1, 0.975)) ** 2
    if binomial <= 0:
        variance, slope, curvature = 0.0, 1 - 2 * mean, 1.0
    elif variance <= _SAME:
        unseen = t2 * _SLOPE / (size + t2)
        return mean * (1 - unseen), mean + (1 - mean) * unseen
    else:
        slope, curvature = third / variance, variance / binomial
    lead, shift = size + t2 * curvature, t2 * slope * _SLOPE
    root = math.sqrt(shift**2 + 4 * lead * t2 * variance)
    low, high = mean + (shift - root) / (2 * lead), mean + (shift + root) / (2 * lead)
    return min(max(low, 0.0), mean), max(min(high, 1.0), mean)


def percentage(
    name: str,
    values: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    groups: Groups | None = None,
) -> MetricValue:
    """The mean of values in [0, 1] as a metric in %; of a single group, without uncertainty.

    The standard error is sd / sqrt(n) (ddof 1), or with groups that of a bootstrap over groups, the
    only thing that `samples` and `seed` are for; the interval is `score_interval`. `n` counts
    values, not groups.
    """
    return percent(name, values, Resampling(samples, seed), groups)


def percent(
    name: str, values: npt.ArrayLike, resampling: Resampling, groups: Groups | None = None
) -> MetricValue:
    """Compute a `percentage` with a `Resampling` in place of its two numbers."""
    array = probabilities(values, name=name)
    sums, counts = by_group(array, groups)
    error, interval = None, None
    if len(sums) > 1:
        low, high = ratio_interval(sums, counts)
        error = (
            _standard_error(array)
            if groups is None
            else spread(ratio_draws(sums, counts, resampling))[0]
        )
        error, interval = 100 * error, (100 * low, 100 * high)
    return MetricValue(
        name=name,
        value=100 * float(array.mean()),
        standard_error=error,
        interval=interval,
        n=array.size,
        unit="%",
    )


def mean_value(
    name: str,
    values: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    unit: str = "",
    groups: Groups | None = None,
) -> MetricValue:
    """The mean of values [n] as a metric with a 95 % bootstrap interval.

    The standard error is sd / sqrt(n) (ddof 1), or with groups that of the bootstrap over groups.
    With a single group there is neither.
    """
    array = finite_values(values, name=name)
    sums, counts = by_group(array, groups)
    draws = ratio_draws(sums, counts, Resampling(samples, seed))
    metric = measured(name, float(array.mean()), draws, n=array.size, unit=unit)
    if groups is not None or array.size < 2:
        return metric
    return metric.model_copy(update={"standard_error": _standard_error(array)})


def _standard_error(array: Array) -> float:
    """The standard error of the mean of independent values."""
    return float(array.std(ddof=1)) / math.sqrt(array.size)
