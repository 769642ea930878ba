"""The setting at the top of a hill: a parabola through the results of several values."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import Array, finite_values, same_size

_LEAST = 4


class Optimum(NamedTuple):
    """The top of a parabola a + b x + c x^2.

    `interval` has the tops that the results do not exclude at 95 %; an end is infinite where they
    exclude none on that side, and it is None where the results do not even say that there is a top
    (the curvature may be 0 or have the other sign).
    """

    value: float
    interval: tuple[float, float] | None
    coefficients: tuple[float, float, float]


def quadratic_optimum(x: npt.ArrayLike, y: npt.ArrayLike) -> Optimum | None:
    """The value of a setting with the highest result, by least squares; None if there is no top.

    Args:
        x: The setting of each run [n]; take logarithms first of what was spaced so.
        y: Its result [n]; seeds are rows of their own.

    Raises:
        ValueError: Fewer than 4 runs, or than 3 different settings.
    Source: the interval is that of a ratio, Fieller (1954): the tops at which the slope b + 2 c x
        is not clear of 0.
    """
    from scipy.special import stdtrit

    xs, ys = finite_values(x, name="x"), finite_values(y, name="y")
    same_size(x=xs, y=ys)
    if len(xs) < _LEAST or len(set(xs.tolist())) < 3:
        raise ValueError(
            f"a parabola needs at least {_LEAST} runs at 3 different settings, got {len(xs)} runs "
            f"at {len(set(xs.tolist()))}"
        )
    # In units around the middle, where the columns are nearly independent.
    middle, width = float(xs.mean()), float(xs.std()) or 1.0
    u = (xs - middle) / width
    design = np.stack([np.ones_like(u), u, u**2], axis=1)
    found, *_ = np.linalg.lstsq(design, ys, rcond=None)
    a, b, c = map(float, found)
    if c >= 0:
        return None
    rest = ys - design @ found
    degrees = len(xs) - 3
    covariance = np.linalg.inv(design.T @ design) * float(rest @ rest) / degrees
    ends = _fieller(b, c, covariance, float(stdtrit(degrees, 0.975)) ** 2)
    interval = None if ends is None else (middle + width * ends[0], middle + width * ends[1])
    c_x = c / width**2
    b_x = b / width - 2 * c_x * middle
    return Optimum(
        middle - width * b / (2 * c),
        interval,
        (a - b * middle / width + c_x * middle**2, b_x, c_x),
    )


def _fieller(b: float, c: float, covariance: Array, t2: float) -> tuple[float, float] | None:
    """The u at which (b + 2 c u)^2 <= t^2 var(b + 2 c u): between the roots of a parabola."""
    of_b, of_c, both = covariance[1, 1], covariance[2, 2], covariance[1, 2]
    square, linear = 4 * (c**2 - t2 * of_c), 4 * (b * c - t2 * both)
    constant = b**2 - t2 * of_b
    if square <= 0:
        return None
    root = np.sqrt(max(linear**2 - 4 * square * constant, 0.0))
    return float((-linear - root) / (2 * square)), float((-linear + root) / (2 * square))
