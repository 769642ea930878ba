"""Bootstrap standard errors and intervals."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from prefine.records import MetricValue

Array = npt.NDArray[np.float64]
Values = npt.ArrayLike | Sequence[float | None]
Groups = Sequence[str] | npt.NDArray[np.generic]

_DRAWS_AT_ONCE = 2_000_000


def finite_values(values: Values, *, name: str) -> Array:
    """The values as a new float array [n].

    Raises:
        ValueError: There are none, they are not one-dimensional, or one is not a finite number.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional array, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(f"{name}: {bad.size} of {array.size} values are not finite numbers, first at index {bad[0]}")
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

    With groups, whole groups are resampled: the pairs of one prompt are not independent, its prompts are.

    Args:
        values: [n].
        samples: Number of bootstrap samples, at least 2.
        seed: Seed of the resampling.
        groups: Group of each value [n], such as its prompt's id; None makes every value its own group.

    Returns: (standard error, (2.5th percentile, 97.5th percentile)).

    Raises:
        ValueError: Empty, not finite, lengths that differ, fewer than two groups (nothing to resample) or two samples.
    """
    array = finite_values(values, name="values")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    sums, counts = _by_group(array, groups)
    if sums.size < 2:
        raise ValueError("a bootstrap needs at least two groups; one group has no measurable spread")
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    step = max(1, _DRAWS_AT_ONCE // sums.size)
    for start in range(0, samples, step):
        drawn = rng.integers(0, sums.size, size=(min(step, samples - start), sums.size))
        means[start : start + step] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(means.std(ddof=1)), (float(low), float(high))


def percentage(
    name: str, values: npt.ArrayLike, *, samples: int, seed: int, groups: Groups | None = None
) -> MetricValue:
    """The mean of values in [0, 1] as a metric in %; without spread to measure (one group), without uncertainty.

    The standard error is sd / sqrt(n) (ddof 1), or the bootstrap's when there are groups; the interval is the
    bootstrap's. `n` counts values, not groups.
    """
    array = probabilities(values, name=name)
    value = 100 * float(array.mean())
    if len(_by_group(array, groups)[0]) < 2:
        return MetricValue(name=name, value=value, n=array.size, unit="%")
    error, (low, high) = bootstrap_mean(array, samples=samples, seed=seed, groups=groups)
    if groups is None:
        error = float(array.std(ddof=1)) / float(np.sqrt(array.size))
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
    return np.bincount(group, weights=array).astype(np.float64), np.bincount(group).astype(np.float64)


def mean_value(name: str, values: npt.ArrayLike, *, samples: int, seed: int, unit: str = "") -> MetricValue:
    """The mean of values [n] as a metric, with standard error sd / sqrt(n) and a 95 % bootstrap interval."""
    array = finite_values(values, name=name)
    value = float(array.mean())
    if array.size < 2:
        return MetricValue(name=name, value=value, n=array.size, unit=unit)
    _, interval = bootstrap_mean(array, samples=samples, seed=seed)
    error = float(array.std(ddof=1)) / float(np.sqrt(array.size))
    return MetricValue(name=name, value=value, standard_error=error, interval=interval, n=array.size, unit=unit)
