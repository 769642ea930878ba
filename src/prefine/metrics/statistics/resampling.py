"""The bootstrap: standard errors and intervals from samples drawn with replacement."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import Array, Groups, finite_values, same_size
from prefine.records import MetricValue

_DRAWS_AT_ONCE = 2_000_000
NO_DRAWS: Array = np.zeros(0)


@dataclass(frozen=True)
class Resampling:
    """Bootstrap samples: their number, at least 2, and the seed that they are drawn from."""

    count: int
    seed: int

    def indices(self, size: int) -> Iterator[npt.NDArray[np.int64]]:
        """Which of `size` units each sample draws, in blocks [s, size] of `count` rows in all.

        Raises:
            ValueError: Fewer than two units (there is nothing to resample) or two samples.
        """
        if size < 2:
            raise ValueError(f"a bootstrap needs at least two prompts or groups, got {size}")
        if self.count < 2:
            raise ValueError(f"samples must be at least 2, got {self.count}")
        rng = np.random.default_rng(self.seed)
        step = max(1, _DRAWS_AT_ONCE // size)
        for start in range(0, self.count, step):
            yield rng.integers(0, size, size=(min(step, self.count - start), size))

    def weights(self, size: int) -> Iterator[Array]:
        """The number of times each sample draws each unit, in blocks [s, size].

        A sum over drawn units is a product with these.

        Raises:
            ValueError: As for `indices`.
        """
        for drawn in self.indices(size):
            cells = drawn + np.arange(len(drawn))[:, None] * size
            times = np.bincount(cells.ravel(), minlength=drawn.size)
            yield times.reshape(drawn.shape).astype(np.float64)

    def draws(self, size: int, statistic: Callable[[Array], Array]) -> Array:
        """A statistic's values on all samples [S, ...]; of one unit, whose spread is unknown, none.

        Args:
            size: Number of units.
            statistic: From the weights of some samples [s, size] to its values [s, ...].
        """
        if size < 2:
            return NO_DRAWS
        return np.concatenate([statistic(block) for block in self.weights(size)])


def spread(draws: Array) -> tuple[float, tuple[float, float]]:
    """Standard error and 95 % percentile interval of a statistic's values on samples [S]."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(draws.std(ddof=1)), (float(low), float(high))


def measured(
    name: str, value: float, draws: Array, *, n: int, unit: str = "", scale: float = 1.0
) -> MetricValue:
    """A metric with the spread of its values on bootstrap samples [S]; without samples, without.

    Args:
        name: Name of the metric.
        value: The statistic.
        draws: The statistic on each sample [S]; empty where its spread is unknown.
        n: Number of units.
        unit: Unit of the metric.
        scale: What value and draws are multiplied by, such as 100 for %.
    """
    error, interval = spread(scale * draws) if len(draws) else (None, None)
    return MetricValue(
        name=name, value=scale * value, standard_error=error, interval=interval, n=n, unit=unit
    )


def by_group(values: Array, groups: Groups | None) -> tuple[Array, Array]:
    """Sum and number of the values of each group [G]; without groups every value is its own.

    Raises:
        ValueError: Lengths differ.
    """
    if groups is None:
        return values, np.ones_like(values)
    same_size(values=values, groups=groups)
    group = group_index(groups)
    return np.bincount(group, values).astype(np.float64), np.bincount(group).astype(np.float64)


def group_index(groups: Groups) -> npt.NDArray[np.intp]:
    """Each row's group as a number from 0 [n]."""
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def selected(groups: Groups | None, which: npt.NDArray[np.generic]) -> Groups | None:
    """The groups of some rows."""
    return None if groups is None else np.asarray(groups)[which]


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
        ValueError: Empty, not finite, lengths that differ, fewer than two groups (there is nothing
            to resample) or two samples.
    """
    array = finite_values(values, name="values")
    draws = ratio_draws(*by_group(array, groups), Resampling(samples, seed))
    if not len(draws):
        raise ValueError(
            "a bootstrap needs at least two groups; one group has no measurable spread"
        )
    return spread(draws)


def ratio_draws(sums: Array, counts: Array, resampling: Resampling) -> Array:
    """sum(sums) / sum(counts) on bootstrap samples [S], of each group's sum and count [G].

    Of a single group, whose spread is unknown, there are no samples.
    """
    if sums.size < 2:
        return NO_DRAWS
    blocks = resampling.indices(sums.size)
    return np.concatenate([sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) for drawn in blocks])
