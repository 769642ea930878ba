"""The growth of a metric with the data: its limit, by the curve limit - factor * n^-power."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import Array, finite_values, same_size

LEAST_RUNS, LEAST_SIZES = 6, 4
"""Of fewer runs or different sizes no curve is fitted."""
_POWERS = np.geomspace(0.05, 4.0, 60)
"""Below, the curve is a logarithm, which has no limit; above, only the smallest size differs."""


class Saturation(NamedTuple):
    """The curve limit - factor * n^-power that fits best.

    `interval` has the limits that the results do not exclude at 95 %; an end is infinite where they
    exclude none on that side.
    """

    limit: float
    factor: float
    power: float
    interval: tuple[float, float]

    @property
    def identified(self) -> bool:
        """True if the results bound the limit on both sides."""
        return bool(np.isfinite(self.interval).all())


class _Fits(NamedTuple):
    """For each power [A]: what a fit leaves of results [n], and how it depends on the limit.

    At a power, the squares that a limit m leaves are those of the best fit plus (m - best)^2 /
    spread.
    """

    designs: Array  # [A, n, 2]
    solvers: Array  # [A, 2, n]
    spreads: Array  # [A]

    @classmethod
    def of(cls, sizes: Array) -> "_Fits":
        columns = -((sizes / sizes.max()) ** -_POWERS[:, None])
        designs = np.stack([np.ones_like(columns), columns], axis=2)
        inverses = np.linalg.inv(designs.transpose(0, 2, 1) @ designs)
        return cls(designs, inverses @ designs.transpose(0, 2, 1), inverses[:, 0, 0])

    def squares(self, results: Array) -> tuple[Array, Array]:
        """Coefficients [A, 2, S] and sums of squares [A, S] of results [n, S]."""
        found = self.solvers @ results
        rest = results - self.designs @ found
        return found, (rest**2).sum(1)


def saturation(
    sizes: npt.ArrayLike, results: npt.ArrayLike, *, samples: int = 400, seed: int = 0
) -> Saturation:
    """The limit that a metric grows towards with more data, by least squares, and its interval.

    The interval is a profile likelihood's: the limits at which the best curve leaves little more
    than the best of all. How much more is what a bootstrap of the residuals says, as the power is
    near an end of its range or the noise is large too often for the usual quantile.

    Args:
        sizes: Number of items of each run [n].
        results: Its metric [n]; seeds are rows of their own.
        samples: Number of bootstrap samples.
        seed: Of the bootstrap.

    Raises:
        ValueError: Fewer than 6 runs or 4 different sizes, or a size below 1.
    Source: arXiv:2410.16586 for the curve.
    """
    xs, ys = finite_values(sizes, name="sizes"), finite_values(results, name="results")
    same_size(sizes=xs, results=ys)
    different = len(set(xs.tolist()))
    if len(xs) < LEAST_RUNS or different < LEAST_SIZES or xs.min() < 1:
        raise ValueError(
            f"a saturation needs at least {LEAST_RUNS} runs of {LEAST_SIZES} different sizes of "
            f"at least 1, got {len(xs)} runs of {different} sizes from {xs.min():g}"
        )
    fits = _Fits.of(xs)
    found, squares = fits.squares(ys[:, None])
    best = int(squares[:, 0].argmin())
    limit, factor = map(float, found[best, :, 0])
    fitted = fits.designs[best] @ found[best, :, 0]
    allowed = float(squares.min()) * _ratio(fits, fitted, ys - fitted, limit, samples, seed)
    room = np.sqrt(np.maximum(0.0, allowed - squares[:, 0]) * fits.spreads)
    kept = squares[:, 0] <= allowed
    lows, highs = found[:, 0, 0] - room, found[:, 0, 0] + room
    low, high = float(lows[kept].min()), float(highs[kept].max())
    if kept[0]:
        # As good as a logarithm, which goes on without an end.
        low = -np.inf if lows[0] < ys.min() else low
        high = np.inf if highs[0] > ys.max() else high
    power = float(_POWERS[best])
    return Saturation(limit, factor * float(xs.max()) ** power, power, (low, high))


def _ratio(
    fits: _Fits, fitted: Array, residuals: Array, limit: float, samples: int, seed: int
) -> float:
    """By how much the squares at the true limit exceed those of the best fit, in 95 % of samples.

    At least what Fisher's distribution says.
    """
    from scipy.special import fdtri

    degrees = len(fitted) - 3
    usual = 1 + float(fdtri(1, degrees, 0.95)) / degrees
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(fitted), (len(fitted), samples))
    found, squares = fits.squares(fitted[:, None] + residuals[drawn])
    at_limit = (squares + (found[:, 0] - limit) ** 2 / fits.spreads[:, None]).min(0)
    least = squares.min(0)
    if not (least > 0).all():
        return usual
    return max(usual, float(np.quantile(at_limit / least, 0.95)))
