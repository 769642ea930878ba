"""Reward accuracy and its baseline."""

import numpy as np
import pytest

from prefine.metrics.rewards.accuracy import longer_is_better, reward_accuracy

PROMPTS = ["p", "p", "q", "r"]


def test_share_of_positive_margins_ties_half():
    metric = reward_accuracy([3.0, -0.1, 0.0, 1e-9], PROMPTS)
    assert (metric.name, metric.value, metric.n, metric.unit) == ("reward_accuracy", 62.5, 4, "%")
    low, high = metric.interval
    assert 0 <= low <= 62.5 <= high <= 100


def test_only_the_sign_of_a_margin_matters():
    margins = np.random.default_rng(0).normal(size=50)
    prompts = [str(n) for n in range(50)]
    before = margins.copy()
    assert reward_accuracy(margins, prompts) == reward_accuracy(1e300 * margins, prompts)
    assert reward_accuracy(-margins, prompts).value == pytest.approx(
        100 - reward_accuracy(margins, prompts).value
    )
    assert np.array_equal(margins, before)


def test_pairs_of_one_prompt_are_resampled_together():
    margins = np.repeat(np.random.default_rng(1).normal(size=100), 8)
    one = reward_accuracy(margins, np.repeat(np.arange(100), 8).astype(str))
    naive = reward_accuracy(margins, np.arange(800).astype(str))
    assert one.standard_error == pytest.approx(np.sqrt(8) * naive.standard_error, rel=0.1)


def test_one_prompt_has_no_uncertainty():
    metric = reward_accuracy([1.0, -1.0], ["p", "p"])
    assert (metric.value, metric.standard_error, metric.interval, metric.n) == (50.0, None, None, 2)


def test_longer_is_better():
    metric = longer_is_better([10, 5, 7, 9], [3, 8, 7, 1], PROMPTS)
    assert (metric.name, metric.value, metric.n) == ("longer_is_better", 62.5, 4)


def test_refusals():
    with pytest.raises(ValueError, match="margins must be a non-empty"):
        reward_accuracy([], [])
    with pytest.raises(ValueError, match="margins must be finite numbers, got nan at index 1"):
        reward_accuracy([1.0, np.nan], ["p", "q"])
    with pytest.raises(ValueError, match="numbers of rows differ: 2 values, 1 groups"):
        reward_accuracy([1.0, 2.0], ["p"])
    with pytest.raises(
        ValueError, match="numbers of rows differ: 2 chosen_lengths, 1 rejected_lengths"
    ):
        longer_is_better([1, 2], [1], ["p", "q"])
