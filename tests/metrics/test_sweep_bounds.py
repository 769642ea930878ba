"""Intervals of win rates over seeds stay between 0 and 100 %, and cover."""

import numpy as np
import pytest

from prefine.metrics import best_of_many, mean_over_seeds, score_interval

REPEATS = 400
LEAST = 0.93 - 2.6 * (0.93 * 0.07 / REPEATS) ** 0.5
"""As in test_sweeps.py: what fewer repeats leave of 93 % with a probability of 99 %."""


def wins(rng: np.random.Generator, seeds: int, mean: float, prompts: int) -> np.ndarray:
    """Wins [seeds, prompts] whose chance differs by seed and prompt, and is `mean` on average."""
    strength = 12.0
    of_prompt = rng.beta(strength * mean, strength * (1 - mean), prompts)
    # A seed takes a share of the distance to 0 or to 1, as often the one as the other.
    of_seed = rng.uniform(-0.15, 0.15, (seeds, 1))
    room = of_prompt * (1 - of_prompt)
    return (rng.random((seeds, prompts)) < of_prompt + of_seed * room).astype(float)


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
def test_win_rates_over_seeds_cover(seeds: int, mean: float) -> None:
    rng = np.random.default_rng(1)
    found = [
        mean_over_seeds("x", wins(rng, seeds, mean, 100), bounds=(0, 1)) for _ in range(REPEATS)
    ]
    ends = [one.interval for one in found]
    assert all(
        0 <= low <= one.value <= high <= 1 for (low, high), one in zip(ends, found, strict=True)
    )
    assert np.mean([low <= mean <= high for low, high in ends]) >= LEAST


def test_the_best_of_many_high_win_rates_covers() -> None:
    rng = np.random.default_rng(2)
    ends = []
    for _ in range(REPEATS):
        table = np.stack([wins(rng, 3, 0.95, 60) for _ in range(8)])
        honest = best_of_many("x", table, scale=100, unit="%", bounds=(0, 1)).honest
        ends.append(honest.interval)
    assert all(0 <= low <= high <= 100 for low, high in ends)
    assert np.mean([low <= 95 <= high for low, high in ends]) >= LEAST


def test_two_seeds_that_differ_widely() -> None:
    """Student's interval of one degree of freedom ends below 0 and above 100 %; that of wins not.

    All prompts agree within a seed but for one, so the seeds' means .9 and .5 decide.
    """
    table = np.ones((2, 10))
    table[0, 0] = 0
    table[1, :5] = 0
    plain = mean_over_seeds("x", table, scale=100)
    bounded = mean_over_seeds("x", table, scale=100, bounds=(0, 1))
    assert (plain.value, plain.standard_error) == (bounded.value, bounded.standard_error)
    assert plain.interval is not None and plain.interval[1] > 100
    assert bounded.interval is not None
    low, high = bounded.interval
    assert 0 < low < 70 < high < 100
    # Both ends are as far from the mean as their own half width, which shrinks towards the bounds.
    half = plain.interval[1] - 70
    for end in (low, high):
        assert abs(end - 70) == pytest.approx(half * (end * (100 - end) / (70 * 30)) ** 0.5)


def test_one_seed_is_the_score_interval() -> None:
    values = [1.0, 1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0]
    found = mean_over_seeds("x", [values], bounds=(0, 1))
    assert found.interval == pytest.approx(score_interval(values))
    moved = mean_over_seeds("x", [2 * np.array(values) - 1], bounds=(-1, 1))
    assert moved.interval == pytest.approx(tuple(2 * end - 1 for end in score_interval(values)))


def test_only_wins_have_an_interval_below_one() -> None:
    found = mean_over_seeds("x", np.ones((3, 40)), scale=100, unit="%", bounds=(0, 1))
    assert found.interval is not None
    assert 85 < found.interval[0] < 100 and found.interval[1] == 100


def test_values_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        mean_over_seeds("x", [[0.5, 1.5]], bounds=(0, 1))
