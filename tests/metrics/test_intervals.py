"""The bootstrap: its formula, coverage, grouping, and what is refused."""

import numpy as np
import pytest

from prefine.metrics.statistics.resampling import bootstrap_mean

VALUES = np.random.default_rng(0).normal(3.0, 2.0, 400)


def flat(values, **options) -> tuple[float, float, float]:
    """Standard error and both ends of the interval."""
    error, (low, high) = bootstrap_mean(values, **options)
    return error, low, high


def test_standard_error_and_interval_approach_those_of_the_mean():
    error, (low, high) = bootstrap_mean(VALUES, samples=4_000, seed=0)
    known = VALUES.std() / 20
    assert error == pytest.approx(known, rel=0.05)
    assert (low, high) == pytest.approx(
        (VALUES.mean() - 1.96 * known, VALUES.mean() + 1.96 * known), abs=0.02
    )


def test_two_values_have_a_known_distribution():
    error, interval = bootstrap_mean([0.0, 1.0], samples=20_000, seed=1)
    assert error == pytest.approx(np.sqrt(1 / 8), rel=0.02)
    assert interval == (0.0, 1.0)


@pytest.mark.torture
def test_interval_covers_the_truth_19_times_of_20():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        _, (low, high) = bootstrap_mean(rng.random(100) < 0.3, samples=300, seed=seed)
        covered += low <= 0.3 <= high
    assert covered / 300 == pytest.approx(0.94, abs=0.04)


def test_copies_within_a_group_add_nothing():
    groups = np.repeat(np.arange(400), 3)
    grouped = flat(np.repeat(VALUES, 3), samples=500, seed=3, groups=groups)
    assert grouped == pytest.approx(flat(VALUES, samples=500, seed=3))
    naive, _ = bootstrap_mean(np.repeat(VALUES, 3), samples=500, seed=3)
    assert naive < 0.7 * grouped[0]


def test_groups_of_unequal_size_weigh_by_their_values():
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    error, interval = bootstrap_mean(values, samples=20_000, seed=4, groups=groups)
    assert interval == (0.0, 1.0)
    # Both groups: 3/4; twice a: 1; twice b: 0.
    assert error == pytest.approx(np.std([0.75, 0.75, 1.0, 0.0]), rel=0.02)


def test_the_order_of_groups_and_their_names_of_equal_order_do_not_matter():
    groups = np.repeat(np.arange(100), 4)
    shuffled = np.random.default_rng(5).permutation(400)
    one = flat(VALUES, samples=200, seed=6, groups=groups)
    assert flat(VALUES[shuffled], samples=200, seed=6, groups=groups[shuffled]) == pytest.approx(
        one
    )
    assert flat(VALUES, samples=200, seed=6, groups=[f"{g:03}" for g in groups]) == pytest.approx(
        one
    )


def test_a_seed_names_the_result_and_inputs_stay_as_they_are():
    before = VALUES.copy()
    assert bootstrap_mean(VALUES, samples=100, seed=7) == bootstrap_mean(
        VALUES, samples=100, seed=7
    )
    assert bootstrap_mean(VALUES, samples=100, seed=7) != bootstrap_mean(
        VALUES, samples=100, seed=8
    )
    assert np.array_equal(VALUES, before)


def test_many_values_are_resampled_in_pieces():
    error, _ = bootstrap_mean(np.tile([0.0, 1.0], 300_000), samples=20, seed=9)
    assert error == pytest.approx(0.5 / np.sqrt(600_000), rel=0.6)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "non-empty"),
        ([[1.0, 2.0]], {}, "one-dimensional"),
        ([1.0, np.nan, np.inf], {}, "values must be finite numbers, got nan at index 1"),
        ([1.0], {}, "at least two groups"),
        ([1.0, 2.0], {"groups": ["a", "a"]}, "at least two groups"),
        ([1.0, 2.0], {"groups": ["a"]}, "numbers of rows differ: 2 values, 1 groups"),
        ([1.0, 2.0], {"samples": 1}, "samples must be at least 2"),
    ],
)
def test_refusals(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, **{"samples": 10, "seed": 0, **options})
