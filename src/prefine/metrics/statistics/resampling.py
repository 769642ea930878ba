"""Bootstrap samples over prompts, as how often each prompt was drawn."""

from collections.abc import Iterator

import numpy as np

from prefine.metrics.statistics.intervals import Array

_DRAWS_AT_ONCE = 2_000_000


def drawn_prompts(prompts: int, *, samples: int, seed: int) -> Iterator[Array]:
    """How often each prompt was drawn in each bootstrap sample, in blocks [s, N] that have `samples` rows in all.

    A statistic that is a function of sums over prompts is resampled by a matrix product with these.

    Raises:
        ValueError: Fewer than two prompts (nothing to resample) or two samples.
    """
    if prompts < 2:
        raise ValueError(f"a bootstrap over prompts needs at least two, got {prompts}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // prompts)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(0, prompts, size=(rows, prompts)) + np.arange(rows)[:, None] * prompts
        yield (
            np.bincount(drawn.ravel(), minlength=rows * prompts)
            .reshape(rows, prompts)
            .astype(np.float64)
        )


def spread(draws: Array) -> tuple[float, tuple[float, float]]:
    """Standard error and 95 % percentile interval of the values of a statistic on bootstrap samples [S]."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(draws.std(ddof=1)), (float(low), float(high))
