"""What several runs say together: planted values are found, and intervals cover them."""

import numpy as np
import pytest

from prefine.metrics import best_of_many, mean_over_seeds, quadratic_optimum, saturation
from prefine.metrics.statistics.normal import NORMAL_QUANTILE

REPEATS = 400
"""Of the 2,000 that `benchmarks/sweep_statistics.py` makes."""
LEAST = 0.93 - 2.6 * (0.93 * 0.07 / REPEATS) ** 0.5
"""What fewer repeats leave of 93 % with a probability of 99 %."""


def covered(draw, repeats: int = REPEATS) -> float:
    rng = np.random.default_rng(1)
    return float(np.mean([draw(rng) for _ in range(repeats)]))


@pytest.mark.parametrize(
    ("seeds", "of_seed", "of_prompt", "of_rest"),
    [(3, 0.0, 0.3, 0.3), (5, 0.05, 0.2, 0.3), (3, 0.2, 0.0, 0.1), (1, 0.0, 0.3, 0.3)],
)
def test_the_mean_over_seeds_covers(
    seeds: int, of_seed: float, of_prompt: float, of_rest: float
) -> None:
    def draw(rng: np.random.Generator) -> bool:
        table = (
            0.1
            + rng.normal(0, of_seed, (seeds, 1))
            + rng.normal(0, of_prompt, (1, 60))
            + rng.normal(0, of_rest, (seeds, 60))
        )
        low, high = mean_over_seeds("x", table).interval or (np.nan, np.nan)
        return bool(low <= 0.1 <= high)

    assert covered(draw) >= LEAST


def test_the_mean_over_seeds_of_a_hand() -> None:
    """[[0, 2], [1, 3]]: seeds' means 1 and 2, prompts' means .5 and 2.5, no rest."""
    found = mean_over_seeds("x", [[0.0, 2.0], [1.0, 3.0]], scale=10, unit="%")
    assert (found.value, found.n, found.unit) == (15.0, 2, "%")
    # .5 / 2 + 2 / 2 = 1.25, times 10^2; degrees 1.25^2 / (.25^2 + 1^2) = 1.47.
    assert found.standard_error == pytest.approx(10 * 1.25**0.5)
    assert found.interval is not None
    assert found.interval[1] - 15 > 2 * NORMAL_QUANTILE * 10


def test_one_seed_is_the_paired_mean() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = mean_over_seeds("x", values[None])
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 50**0.5)


def test_without_spread_or_prompts_there_is_no_interval() -> None:
    assert mean_over_seeds("x", np.ones((3, 4))).interval is None
    assert mean_over_seeds("x", [[1.0], [2.0]]).interval is None


def test_the_best_of_many_equals_is_not_above_them() -> None:
    """Twelve settings of the same quality: the highest mean is too high, the other is not."""
    rng = np.random.default_rng(2)
    found = [best_of_many("x", 0.5 + rng.normal(0, 0.3, (12, 1, 100))) for _ in range(REPEATS)]
    assert np.mean([one.naive.value for one in found]) > 0.54
    assert abs(np.mean([one.honest.value for one in found]) - 0.5) < 0.01
    ends = [one.honest.interval for one in found]
    assert np.mean([low <= 0.5 <= high for low, high in filter(None, ends)]) >= LEAST


def test_a_clear_best_is_chosen_and_scored() -> None:
    scores = np.random.default_rng(3).normal([[[0.2]], [[0.8]], [[0.5]]], 0.1, (3, 2, 200))
    found = best_of_many("x", scores, scale=100, unit="%")
    assert (found.best, found.chosen) == (1, 1)
    assert found.naive.value == pytest.approx(100 * scores[1].mean())
    assert found.honest.value == pytest.approx(80, abs=2)
    assert found.honest.n == 100


def test_the_top_of_a_planted_hill() -> None:
    def draw(rng: np.random.Generator) -> bool:
        x = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 3)
        found = quadratic_optimum(x, 80 - 3 * (x - 1.7) ** 2 + rng.normal(0, 2, len(x)))
        # A hill that noise has turned over excludes no top.
        if found is None or found.interval is None:
            return True
        return bool(found.interval[0] <= 1.7 <= found.interval[1])

    assert covered(draw) >= LEAST


def test_the_top_without_noise() -> None:
    x = np.array([0.0, 1.0, 2.0, 5.0])
    found = quadratic_optimum(x, 80 - 3 * (x - 1.7) ** 2)
    assert found is not None
    assert found.value == pytest.approx(1.7)
    assert found.interval == pytest.approx((1.7, 1.7), abs=1e-4)
    a, b, c = found.coefficients
    assert (a, b, c) == pytest.approx((80 - 3 * 1.7**2, 6 * 1.7, -3))


def test_a_valley_has_no_top_and_a_flat_line_no_interval() -> None:
    x = np.arange(6.0)
    assert quadratic_optimum(x, (x - 2) ** 2) is None
    rng = np.random.default_rng(0)
    flat = [quadratic_optimum(x, rng.normal(size=6)) for _ in range(50)]
    assert any(found is not None and found.interval is None for found in flat)


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 1]), ([1, 1, 2, 2], [1, 2, 1, 2])])
def test_too_few_runs_are_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="parabola"):
        quadratic_optimum(x, y)


def test_fewer_prompts_than_two_halves_are_refused() -> None:
    with pytest.raises(ValueError, match="4 prompts"):
        best_of_many("x", np.ones((2, 1, 3)))


SIZES = np.repeat([100.0, 250.0, 500.0, 750.0, 1000.0], 3)


def test_the_limit_of_a_growth_without_noise() -> None:
    found = saturation(SIZES, 80 - 200 * SIZES**-0.8 + np.tile([-1e-4, 0, 1e-4], 5))
    assert found.limit == pytest.approx(80, abs=0.15)
    assert found.power == pytest.approx(0.8, abs=0.05)
    # What the curve says does not depend on how its numbers share the work.
    assert found.limit - found.factor * 300**-found.power == pytest.approx(77.914, abs=0.02)
    assert found.identified


def test_a_logarithm_has_no_limit() -> None:
    found = saturation(SIZES, 50 + 5 * np.log(SIZES) + np.tile([-0.5, 0, 0.5], 5))
    assert found.interval[1] == np.inf and not found.identified
    falling = saturation(SIZES, 50 - 5 * np.log(SIZES) + np.tile([-0.5, 0, 0.5], 5))
    assert falling.interval[0] == -np.inf and not falling.identified


def test_the_limit_of_a_growth_covers() -> None:
    def draw(rng: np.random.Generator) -> bool:
        found = saturation(SIZES, 80 - 200 * SIZES**-0.8 + rng.normal(0, 1, 15), samples=200)
        return found.interval[0] <= 80 <= found.interval[1]

    assert covered(draw) >= LEAST


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([1, 2, 3, 4, 5], "got 5 runs"),
        ([1, 2, 3] * 3, "9 runs of 3"),
        ([0, *range(1, 7)], "from 0"),
    ],
)
def test_a_growth_needs_runs_and_sizes(sizes: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        saturation(sizes, np.arange(len(sizes)))
