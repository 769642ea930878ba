"""The normal distribution from tables, against `math.erfc` and integrals over fine grids."""

import math

import numpy as np
import pytest

from prefine.ranking.fitting import normal

STEP = 1e-3
HERE = np.random.default_rng(0).uniform(-8, 8, 400)  # between the points of any table
TAILS = np.array([8.0, 8.001, 8.5, 10.0, 14.0, 20.0, 30.0, 40.0])


def exact_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def simpson(heights: np.ndarray, step: float) -> float:
    return float(
        step
        / 3
        * (heights[0] + 4 * heights[1:-1:2].sum() + 2 * heights[2:-1:2].sum() + heights[-1])
    )


def exact_mills(z: float) -> float:
    """1 / integral of exp(z t - t^2 / 2) over t > 0: no quotient of two numbers that vanish."""
    # Nothing is left beyond 9 of the greatest integrand, nor beyond 45 / -z of 0.
    t, step = np.linspace(
        0.0, z + 9 if z > 0 else min(9.0, 45 / max(-z, 1e-9)), 20_001, retstep=True
    )
    return 1 / simpson(np.exp(z * t - t * t / 2), step)


def exact_excess(z: float) -> float:
    """The integral of (x - z) density(x) over x > z."""
    t, step = np.linspace(0.0, 9.0, 20_001, retstep=True)
    return simpson(t * np.exp(-((t + z) ** 2) / 2), step) / math.sqrt(2 * math.pi)


def test_the_distribution_function():
    # Linear interpolation errs by at most step^2 / 8 times the curvature, here 1 / sqrt(2 pi e).
    bound = 1.01 * STEP**2 / 8 / math.sqrt(2 * math.pi * math.e)
    assert np.abs(normal.cdf(HERE) - [exact_cdf(z) for z in HERE]).max() < bound
    assert normal.cdf(np.array([0.0, -1.96, 1.96])) == pytest.approx(
        [0.5, 0.0249979, 0.9750021], abs=1e-7
    )
    assert normal.cdf(HERE) + normal.cdf(-HERE) == pytest.approx(np.ones(len(HERE)), abs=1e-12)


def test_the_ratio_of_mills():
    # Its curvature is below 0.3 everywhere.
    assert np.abs(normal.mills(HERE) - [exact_mills(z) for z in HERE]).max() < STEP**2 / 8 * 0.3
    assert normal.mills(np.array([0.0])) == pytest.approx([math.sqrt(2 / math.pi)], abs=1e-12)


def test_the_expected_excess():
    z = np.abs(HERE)
    # Its curvature is the density.
    assert (
        np.abs(normal.expected_excess(z) - [exact_excess(x) for x in z]).max()
        < 1.01 * STEP**2 / 8 * 0.4
    )
    assert normal.expected_excess(np.array([0.0])) == pytest.approx(
        [1 / math.sqrt(2 * math.pi)], abs=1e-12
    )


def test_far_out_the_probabilities_are_next_to_nothing():
    assert (normal.cdf(-TAILS) >= 0).all() and normal.cdf(-TAILS).max() < 1e-15
    assert 1 - normal.cdf(TAILS).min() < 1e-14 and normal.cdf(TAILS).max() <= 1
    assert (normal.mills(TAILS) >= 0).all() and normal.mills(TAILS).max() < 1e-14
    assert (normal.expected_excess(TAILS) >= 0).all() and normal.expected_excess(
        TAILS
    ).max() < 1e-15


def test_far_below_the_ratio_of_mills_is_just_above_its_argument():
    exact = [exact_mills(-z) for z in TAILS]
    assert exact == pytest.approx(TAILS + 1 / TAILS, abs=2 / 8**3)
    assert np.all(np.abs(normal.mills(-TAILS) - exact) < 2 / TAILS**3)


def test_a_truncated_normal_is_narrower_than_a_whole_one_and_not_narrower_than_a_point():
    """A Z above -z has the variance 1 - mills (mills + z)."""
    z = np.concatenate([np.linspace(-40, 6, 9_001), -TAILS])
    ratio = normal.mills(z)
    variance = 1 - ratio * (ratio + z)
    assert (variance > 0).all()
    assert (variance < 1).all()
    exact = [1 - r * (r + x) for x in -TAILS for r in [exact_mills(x)]]
    # About 1 / z^2, the variance of an exponential distribution.
    assert exact == pytest.approx(1 / TAILS**2, rel=0.1)
    assert 1 - normal.mills(-TAILS) * (normal.mills(-TAILS) - TAILS) == pytest.approx(
        exact, rel=0.1
    )


@pytest.mark.parametrize(
    ("function", "sign"),
    [(normal.cdf, 1), (normal.mills, -1), (normal.expected_excess, -1)],
    ids=["cdf", "mills", "expected_excess"],
)
def test_monotone_from_tail_to_tail(function, sign):
    z = np.linspace(0 if function is normal.expected_excess else -41, 41, 40_001)
    assert (sign * np.diff(function(z)) >= 0).all()
    inside = np.abs(z) < 5
    assert (sign * np.diff(function(z[inside])) > 0).all()


def test_shapes_are_kept():
    z = np.array([[-9.0, 0.5], [8.5, 1.0]])
    for function in (normal.cdf, normal.mills, normal.expected_excess):
        assert function(z).shape == (2, 2)
        assert float(function(np.array(0.5))) == pytest.approx(function(z)[0, 1])
