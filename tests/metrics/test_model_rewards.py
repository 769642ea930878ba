"""Reward accuracy of the optimised score beside that of the log-ratio."""

import numpy as np
import pytest

from prefine.metrics.rewards.accuracy import log_ratio_margins, reward_accuracies

PROMPTS = ["p", "p", "q", "r"]


def test_two_rewards_by_their_own_names():
    found = reward_accuracies([1.0, -1.0, 0.0, 2.0], [1.0, 1.0, 0.0, -2.0], PROMPTS, score="simpo")
    assert (found.optimised.name, found.optimised.value) == ("simpo_accuracy", 62.5)
    assert (found.log_ratio.name, found.log_ratio.value) == ("log_ratio_accuracy", 62.5)
    assert (found.same_order.name, found.same_order.value, found.same_order.n) == (
        "same_order",
        50.0,
        4,
    )
    assert found.same_order.interval is not None


def test_margins_of_log_ratios():
    found = log_ratio_margins([-1.0, -4.0], [-2.0, -3.0], [-3.0, -4.0], [-3.0, -1.0])
    assert found.tolist() == [1.0, 2.0]


def test_dpo_optimises_the_log_ratio():
    margins = np.random.default_rng(0).normal(size=40)
    found = reward_accuracies(0.1 * margins, margins, [str(i) for i in range(40)], score="dpo")
    assert found.optimised.value == found.log_ratio.value
    assert found.same_order.value == 100


def test_refusals():
    with pytest.raises(ValueError, match="is the name of the other one"):
        reward_accuracies([1.0], [1.0], ["p"], score="log_ratio")
    with pytest.raises(
        ValueError, match="numbers of rows differ: 2 optimised_margins, 1 log_ratio_margins"
    ):
        reward_accuracies([1.0, 2.0], [1.0], ["p", "q"], score="dpo")
    with pytest.raises(ValueError, match="ref_chosen must be finite numbers, got nan at index 0"):
        log_ratio_margins([1.0], [1.0], [np.nan], [1.0])
