"""Means over subsets that count as a benchmark says, and not as many items as they happen to have."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Groups, probabilities
from prefine.metrics.statistics.resampling import spread
from prefine.records import MetricValue


def weighted_subsets(
    name: str,
    values: npt.ArrayLike,
    subsets: Groups,
    weights: Mapping[str, float],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> MetricValue:
    """sum_s w_s mean_s / sum_s w_s over subsets, in %; the bootstrap resamples items inside their subset.

    Args:
        name: Name of the metric.
        values: Outcome of each item [n], in [0, 1].
        subsets: Subset of each item [n].
        weights: How much each subset counts, all of them and no others.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns: With `n` items. Without uncertainty where a subset has a single item, whose spread is
        not known.

    Raises:
        ValueError: A value outside [0, 1], a weight that is not positive, a subset without a weight
            or without items.
    """
    means, draws = subset_means(values, subsets, weights, samples=samples, seed=seed)
    share = np.array([weights[subset] for subset in sorted(weights)], dtype=np.float64)
    share /= share.sum()
    error, interval = None, None
    if len(draws):
        error, interval = spread(100 * (draws @ share))
    return MetricValue(
        name=name,
        value=100 * float(means @ share),
        standard_error=error,
        interval=interval,
        n=len(subsets),
        unit="%",
    )


def subset_means(
    values: npt.ArrayLike, subsets: Groups, weights: Mapping[str, float], *, samples: int, seed: int
) -> tuple[Array, Array]:
    """The mean of each subset in sorted order [K], and on bootstrap samples [S, K]; S is 0 without a known spread.

    Raises:
        ValueError: As for `weighted_subsets`.
    """
    array, labels = probabilities(values, name="values"), np.asarray(subsets)
    if len(labels) != array.size:
        raise ValueError(f"{array.size} values, but {len(labels)} subsets")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    names = sorted(weights)
    wrong = [subset for subset in names if not 0 < weights[subset] < np.inf]
    if wrong or not names:
        raise ValueError(
            f"weights of subsets must be positive and finite; {', '.join(wrong) or 'there is none'}"
        )
    found = {str(label) for label in np.unique(labels)}
    if unknown := found - set(names):
        raise ValueError(f"unknown subset {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    if absent := set(names) - found:
        raise ValueError(
            f"no item of {', '.join(sorted(absent))}, so the mean over all subsets does not exist"
        )
    parts = [array[labels == subset] for subset in names]
    means = np.array([part.mean() for part in parts])
    if min(part.size for part in parts) < 2:
        return means, np.zeros((0, len(names)))
    rng = np.random.default_rng(seed)
    draws = [_drawn_means(part, samples, rng) for part in parts]
    return means, np.column_stack(draws)


def _drawn_means(part: Array, samples: int, rng: np.random.Generator) -> Array:
    # Outcomes take few values: drawing how often each occurs is drawing the items.
    levels, counts = np.unique(part, return_counts=True)
    drawn = rng.multinomial(part.size, counts / part.size, size=samples)
    means: Array = drawn @ levels / part.size
    return means
