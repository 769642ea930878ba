"""The interval of a mean in [0, 1]: Wilson's but for one factor, its coverage, groups, and the
ends of the scale.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.statistics.intervals import (
    mean_value,
    percentage,
    score_interval,
)
from prefine.metrics.statistics.resampling import Resampling, ratio_draws

unit_values = st.lists(st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)), min_size=2, max_size=40)


def covered(draw, truth: float, *, runs: int = 1000, n: int = 200) -> float:
    rng = np.random.default_rng(0)
    ends = (score_interval(draw(rng, n)) for _ in range(runs))
    return sum(low <= truth <= high for low, high in ends) / runs


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda rng, n: rng.random(n) < 0.5, 0.5),
        (lambda rng, n: rng.random(n) < 0.05, 0.05),
        (lambda rng, n: rng.random(n) < 0.98, 0.98),
        (lambda rng, n: rng.beta(0.1, 0.9, n), 0.1),
        (lambda rng, n: rng.beta(5, 0.5, n), 5 / 5.5),
        (lambda rng, n: rng.choice([0, 0.5, 1], p=[0.8, 0.1, 0.1], size=n), 0.15),
    ],
)
def test_covers_the_truth_also_near_the_ends(draw, truth):
    assert 0.93 <= covered(draw, truth) <= 0.97


def test_solves_its_equation():
    values = np.random.default_rng(1).beta(0.3, 0.9, 60)
    # The quantiles of the normal and of Student's distribution with 59 degrees of freedom, from
    # tables.
    m, z, t = values.mean(), 1.959964, 2.000995
    around = values - m
    v = (around**2).mean()
    slope = (around**3).mean() / v * (2 / 3 + 1 / (3 * z**2))
    for mu in score_interval(values):
        allowed = v + slope * (mu - m) - v / (m * (1 - m)) * (mu - m) ** 2
        assert (m - mu) ** 2 == pytest.approx(t**2 * allowed / 60, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "quantile"), [(5, 2.776445), (11, 2.228139), (31, 2.042272), (201, 1.971896)]
)
def test_few_values_have_the_quantile_of_students_distribution(n, quantile):
    """Half 0 and half 1 around 1/2: t^2 / (n + t^2) is what the ends leave of the scale,
    squared.
    """
    low, high = score_interval(np.r_[np.zeros(n // 2), 0.5, np.ones(n // 2)])
    spread = (n - 1) / n
    assert (high - low) ** 2 == pytest.approx(
        quantile**2 * spread / (n + quantile**2 * spread), rel=0.01
    )


def test_all_zeros_are_not_certain():
    low, high = score_interval(np.zeros(200))
    assert low == 0
    assert 0.01 < high < 0.02
    assert score_interval(np.ones(200)) == (pytest.approx(1 - high), 1)


@pytest.mark.parametrize("value", [0.5, 0.1, 0.7])
def test_equal_values_are_not_certain(value):
    """Six ties leave room for unseen wins, and for as many losses: the share that six zeros leave
    for ones.
    """
    low, high = score_interval([value] * 6)
    unseen = score_interval(np.zeros(6))[1]
    assert 0.2 < unseen < 0.5
    assert low == pytest.approx(value * (1 - unseen))
    assert high == pytest.approx(value + (1 - value) * unseen)


@given(values=unit_values)
@settings(derandomize=True, max_examples=100)
def test_mirror_image_order_and_range(values):
    low, high = score_interval(values)
    assert 0 <= low <= np.mean(values) + 1e-12
    assert np.mean(values) - 1e-12 <= high <= 1
    assert score_interval(1 - np.array(values)) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert score_interval(values[::-1]) == pytest.approx((low, high), abs=1e-9)


def test_copies_within_a_group_add_nothing():
    values = np.random.default_rng(2).random(80)
    groups = np.repeat(np.arange(80), 3)
    assert score_interval(np.repeat(values, 3), groups=groups) == pytest.approx(
        score_interval(values)
    )


def test_covers_the_truth_when_prompts_have_several_alike_values():
    rng, covered_runs = np.random.default_rng(5), 0
    for _ in range(500):
        groups = np.repeat(np.arange(100), rng.integers(1, 8, 100))
        values = rng.random(groups.size) < rng.beta(0.2, 0.8, 100)[groups]
        low, high = score_interval(values, groups=groups)
        covered_runs += low <= 0.2 <= high
    assert 0.92 <= covered_runs / 500 <= 0.98


def test_percentage_is_the_same_for_any_seed_without_groups():
    values = np.random.default_rng(3).random(30)
    assert percentage("x", values, samples=2, seed=0) == percentage("x", values, samples=9, seed=5)


def test_bootstrap_of_a_ratio_is_the_grouped_mean():
    draws = ratio_draws(np.array([3.0, 0.0]), np.array([3.0, 1.0]), Resampling(20_000, 4))
    error = draws.std(ddof=1)
    assert error == pytest.approx(np.std([0.75, 0.75, 1.0, 0.0]), rel=0.02)


def test_mean_value_of_groups():
    one = mean_value("x", [1.0, 2.0, 4.0], samples=300, seed=0)
    copied = mean_value(
        "x", np.repeat([1.0, 2.0, 4.0], 2), samples=300, seed=0, groups=np.repeat([0, 1, 2], 2)
    )
    assert copied.interval == pytest.approx(one.interval)
    alone = mean_value("x", [1.0, 3.0], samples=300, seed=0, groups=["p", "p"])
    assert (alone.value, alone.standard_error, alone.interval, alone.n) == (2.0, None, None, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_interval([0.5]), "at least two groups"),
        (lambda: score_interval([0.5, 1.5]), r"must be in \[0, 1\], got 1.5 at index 1"),
        (
            lambda: score_interval([0.5, np.nan]),
            "values must be finite numbers, got nan at index 1",
        ),
        (
            lambda: score_interval([0.5, 1.0], groups=["a"]),
            "numbers of rows differ: 2 values, 1 groups",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
