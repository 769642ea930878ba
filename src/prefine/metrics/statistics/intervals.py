"""Standard errors and 95 % intervals: a score interval for means in [0, 1], the bootstrap for everything else."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prefine.records import MetricValue

Array = npt.NDArray[np.float64]
Values = npt.ArrayLike | Sequence[float | None]
Groups = Sequence[str] | npt.NDArray[np.generic]

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

# The variance's slope that takes the skewness out of a studentised mean to the second order, see
# `score_interval`.
_SLOPE = 2 / 3 + 1 / (3 * NORMAL_QUANTILE**2)
_DRAWS_AT_ONCE = 2_000_000


def finite_values(values: Values, *, name: str) -> Array:
    """The values as a new float array [n].

    Raises:
        ValueError: There are none, they are not one-dimensional, or one is not a finite number.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name} must be a non-empty one-dimensional array, got shape {array.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name}: {bad.size} of {array.size} values are not finite numbers, first at index "
            f"{bad[0]}"
        )
    return array


def probabilities(values: Values, *, name: str) -> Array:
    """The values as a new float array [n] of numbers in [0, 1].

    Raises:
        ValueError: As for `finite_values`, or a value is outside [0, 1].
    """
    array = finite_values(values, name=name)
    bad = np.flatnonzero((array < 0) | (array > 1))
    if bad.size:
        raise ValueError(f"{name} must be in [0, 1], got {array[bad[0]]} at index {bad[0]}")
    return array


def bootstrap_mean(
    values: npt.ArrayLike, *, samples: int, seed: int, groups: Groups | None = None
) -> tuple[float, tuple[float, float]]:
    """Standard error and 95 % percentile interval of a mean.

    With groups, whole groups are resampled: the pairs of one prompt are not independent, its
    prompts are.

    Args:
        values: [n].
        samples: Number of bootstrap samples, at least 2.
        seed: Seed of the resampling.
        groups: Group of each value [n], such as its prompt's id; None makes every value its own
            group.

    Returns: (standard error, (2.5th percentile, 97.5th percentile)).

    Raises:
        ValueError: Empty, not finite, lengths that differ, fewer than two groups (nothing to
            resample) or two samples.
    """
    array = finite_values(values, name="values")
    return bootstrap_ratio(*_by_group(array, groups), samples=samples, seed=seed)


def bootstrap_ratio(
    sums: npt.ArrayLike, counts: npt.ArrayLike, *, samples: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """Standard error and 95 % percentile interval of sum(sums) / sum(counts), whole groups resampled.

    Args:
        sums: Sum of each group's values [G].
        counts: How many values that are [G], positive.
        samples: Number of bootstrap samples, at least 2.
        seed: Seed of the resampling.

    Returns: (standard error, (2.5th percentile, 97.5th percentile)).

    Raises:
        ValueError: Not finite, lengths that differ, a count that is not positive, fewer than two
            groups or samples.
    """
    total, size = finite_values(sums, name="sums"), finite_values(counts, name="counts")
    if total.size != size.size:
        raise ValueError(f"{total.size} sums, but {size.size} counts")
    if (size <= 0).any():
        raise ValueError(f"counts must be positive, got {size.min():g} at index {size.argmin()}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    if total.size < 2:
        raise ValueError(
            "a bootstrap needs at least two groups; one group has no measurable spread"
        )
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    step = max(1, _DRAWS_AT_ONCE // total.size)
    for start in range(0, samples, step):
        drawn = rng.integers(0, total.size, size=(min(step, samples - start), total.size))
        means[start : start + step] = total[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(means.std(ddof=1)), (float(low), float(high))


def score_interval(values: npt.ArrayLike, *, groups: Groups | None = None) -> tuple[float, float]:
    """The 95 % interval of a mean of values in [0, 1], also where nearly all of them are 0 or 1.

    Every mean mu with (m - mu)^2 <= t^2 V(mu) / G, where m is the observed mean, t the 97.5 %
    quantile of Student's t and V a quadratic: V(m) is the values' variance; its slope at m is their
    third central moment over the variance, times 2/3 + 1/(3 z^2), z = 1.96; its curvature is that
    of the binomial variance, so that V shrinks towards 0 and 1. On 0s and 1s, with z for t and
    without the factor, this is Wilson's interval. Values that are all 0, or all 1, are taken as
    binomial: the interval is not a point.

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
    return ratio_interval(*_by_group(probabilities(values, name="values"), groups))


def ratio_interval(sums: Array, counts: Array) -> tuple[float, float]:
    """The same of sum / count over groups [G]: of weighted values in [0, 1], their sums and their weights.

    Raises:
        ValueError: Fewer than two groups.
    """
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
    if binomial <= 0:
        variance, slope, curvature = 0.0, 1 - 2 * mean, 1.0
    elif variance <= 0:
        return mean, mean
    else:
        slope, curvature = third / variance, variance / binomial
    t2 = _student_quantile(size - 1) ** 2
    lead, shift = size + t2 * curvature, t2 * slope * _SLOPE
    root = math.sqrt(shift**2 + 4 * lead * t2 * variance)
    low, high = mean + (shift - root) / (2 * lead), mean + (shift + root) / (2 * lead)
    return min(max(low, 0.0), mean), max(min(high, 1.0), mean)


def _student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to .001 from ten degrees of freedom on.

    With two it is 3 % too small, with one a quarter.

    Source: Abramowitz and Stegun, 26.7.5.
    """
    z = NORMAL_QUANTILE
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def percentage(
    name: str, values: npt.ArrayLike, *, samples: int, seed: int, groups: Groups | None = None
) -> MetricValue:
    """The mean of values in [0, 1] as a metric in %; without spread to measure (one group), without uncertainty.

    The standard error is sd / sqrt(n) (ddof 1), or with groups that of a bootstrap over groups, the
    only thing that `samples` and `seed` are for; the interval is `score_interval`. `n` counts
    values, not groups.
    """
    array = probabilities(values, name=name)
    value = 100 * float(array.mean())
    if len(_by_group(array, groups)[0]) < 2:
        return MetricValue(name=name, value=value, n=array.size, unit="%")
    low, high = score_interval(array, groups=groups)
    if groups is None:
        error = float(array.std(ddof=1)) / float(np.sqrt(array.size))
    else:
        error, _ = bootstrap_mean(array, samples=samples, seed=seed, groups=groups)
    return MetricValue(
        name=name,
        value=value,
        standard_error=100 * error,
        interval=(100 * low, 100 * high),
        n=array.size,
        unit="%",
    )


def _by_group(array: Array, groups: Groups | None) -> tuple[Array, Array]:
    """Sum and number of the values of each group."""
    if groups is None:
        return array, np.ones_like(array)
    if len(groups) != array.size:
        raise ValueError(f"{array.size} values, but {len(groups)} groups")
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    return np.bincount(group, weights=array).astype(np.float64), np.bincount(group).astype(
        np.float64
    )


def mean_value(
    name: str,
    values: npt.ArrayLike,
    *,
    samples: int,
    seed: int,
    unit: str = "",
    groups: Groups | None = None,
) -> MetricValue:
    """The mean of values [n] as a metric with a 95 % bootstrap interval; of one group, without uncertainty.

    The standard error is sd / sqrt(n) (ddof 1), or with groups that of the bootstrap over groups.
    """
    array = finite_values(values, name=name)
    value = float(array.mean())
    if len(_by_group(array, groups)[0]) < 2:
        return MetricValue(name=name, value=value, n=array.size, unit=unit)
    error, interval = bootstrap_mean(array, samples=samples, seed=seed, groups=groups)
    if groups is None:
        error = float(array.std(ddof=1)) / float(np.sqrt(array.size))
    return MetricValue(
        name=name, value=value, standard_error=error, interval=interval, n=array.size, unit=unit
    )
