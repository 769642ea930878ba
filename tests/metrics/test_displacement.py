"""Where log-ratios went: quantiles by known answers and against numpy, and falls of the chosen
completion.
"""

import numpy as np
import pytest

from prefine.metrics.rewards.displacement import displacement, quantile_values
from prefine.metrics.statistics.resampling import Resampling


def ids(n: int) -> list[str]:
    return [f"{i:04}" for i in range(n)]


def test_falls_and_quantiles():
    a, c = np.array([-6.0, -1.0, 0.0, 2.0]), np.array([-9.0, -1.0, -2.0, -4.0])
    found = displacement(
        a - 10, c - 12, [-10.0] * 4, [-12.0] * 4, ids(4), delta=5.0, quantiles=(0.0, 0.5, 1.0)
    )
    assert [metric.value for metric in found.chosen.quantiles] == [-6.0, -0.5, 2.0]
    assert [metric.name for metric in found.chosen.quantiles] == [
        f"chosen_log_ratio_q{q}" for q in (0, 50, 100)
    ]
    assert [metric.value for metric in found.rejected.quantiles] == [-9.0, -3.0, -1.0]
    assert [metric.value for metric in found.margin.quantiles] == [0.0, 2.5, 6.0]
    assert (found.chosen.mean.value, found.margin.mean.name) == (-1.25, "margin_mean")
    assert (found.chosen_fell.value, found.chosen_fell_beyond.value) == (50.0, 25.0)
    assert found.chosen_fell_beyond.name == "chosen_fell_beyond_budget"


@pytest.mark.parametrize("n", [1, 2, 5, 20, 21, 37])
def test_quantiles_are_numpys_with_the_middle_between_two(n):
    values = np.random.default_rng(n).normal(size=n)
    wanted = (0.0, 0.05, 0.25, 0.5, 0.9, 1.0)
    found = quantile_values("x", values, ids(n), wanted, Resampling(2, 0))
    expected = np.quantile(values, wanted, method="averaged_inverted_cdf")
    assert [metric.value for metric in found] == pytest.approx(expected.tolist())
    copied = quantile_values("x", np.repeat(values, 2), ids(2 * n), wanted, Resampling(2, 0))
    assert [metric.value for metric in copied] == [metric.value for metric in found]


def test_resampled_quantiles_are_those_of_the_resampled_values():
    values, groups = np.random.default_rng(0).normal(size=30), np.repeat(np.arange(10), 3)
    (found,) = quantile_values("x", values, groups, (0.25,), Resampling(200, 5))
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(200):
        picked = rng.integers(0, 10, size=10)
        drawn.append(
            np.quantile(values.reshape(10, 3)[picked], 0.25, method="averaged_inverted_cdf")
        )
    assert found.interval == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
    assert found.standard_error == pytest.approx(np.std(drawn, ddof=1))


@pytest.mark.torture
def test_interval_of_the_median_covers():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        (found,) = quantile_values(
            "x", rng.normal(size=100), ids(100), (0.5,), Resampling(200, seed)
        )
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert 0.88 <= covered / 100 <= 1


def test_one_prompt_has_no_uncertainty():
    found = displacement([1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], ["p", "p"], delta=0.0)
    assert found.chosen.quantiles[2].value == 1.5
    assert found.chosen.quantiles[2].interval is None
    assert found.chosen_fell.interval is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": -1.0}, "delta must be at least 0, got -1.0"),
        ({"delta": float("nan")}, "delta must be at least 0"),
        ({"quantiles": (0.5, 1.5)}, r"quantiles must be in \[0, 1\]"),
        ({"prompt_ids": ["p"]}, "numbers of rows differ: 2 values, 1 groups"),
        (
            {"policy_chosen": [1.0, np.nan]},
            "policy_chosen must be finite numbers, got nan at index 1",
        ),
        (
            {"ref_rejected": [1.0]},
            "numbers of rows differ: 2 policy_chosen, .* 1 ref_rejected",
        ),
    ],
)
def test_refusals(change, message):
    pairs = {
        key: [1.0, 2.0]
        for key in ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    }
    with pytest.raises(ValueError, match=message):
        displacement(**{**pairs, "prompt_ids": ["p", "q"], "delta": 1.0, **change})
