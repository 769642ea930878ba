"""Facts about a judge: first-slot rate and swap consistency."""

import numpy as np
import pytest

from prefine.metrics.judges.verdicts import first_slot_rate, swap_consistency


def test_first_slot_rate_counts_a_tie_half_and_takes_soft_verdicts_by_their_side():
    metric = first_slot_rate([0.9, 0.51, 0.5, 0.0, 1.0])
    assert (metric.name, metric.value, metric.n, metric.unit) == (
        "first_slot_rate",
        pytest.approx(70.0),
        5,
        "%",
    )


def test_swap_consistency_counts_the_same_winner():
    one = [1.0, 1.0, 0.5, 0.5, 0.3, None, 0.9]
    swapped = [0.0, 1.0, 0.5, 0.6, 0.9, 0.5, float("nan")]
    metric = swap_consistency(one, swapped)
    assert (metric.name, metric.value, metric.n, metric.unit) == (
        "swap_consistency",
        pytest.approx(60.0),
        5,
        "%",
    )


def test_duels_of_one_prompt_are_resampled_together():
    p = np.repeat(np.random.default_rng(0).integers(0, 2, 200), 10).astype(float)
    prompts = np.repeat(np.arange(200), 10).astype(str)
    assert (
        first_slot_rate(p, prompt_ids=prompts).standard_error
        > 2.5 * first_slot_rate(p).standard_error
    )
    some = [None, *p[1:]]
    assert swap_consistency(some, 1 - p, prompt_ids=prompts).n == len(p) - 1


def test_one_prompt_has_no_uncertainty():
    assert first_slot_rate([1.0, 0.0], prompt_ids=["p", "p"]).interval is None


def test_refusals():
    with pytest.raises(ValueError, match="non-empty"):
        first_slot_rate([])
    with pytest.raises(ValueError, match="p_first must be finite numbers, got nan at index 1"):
        first_slot_rate([0.5, np.nan])
    with pytest.raises(ValueError, match="no pair has a verdict in both orders"):
        swap_consistency([None, 0.5], [0.5, None])
    with pytest.raises(ValueError, match="numbers of rows differ: 1 p_first, 2 p_first_swapped"):
        swap_consistency([0.5], [0.5, 0.5])
    with pytest.raises(
        ValueError, match="numbers of rows differ: 1 p_first, 1 p_first_swapped, 2 prompt_ids"
    ):
        swap_consistency([0.5], [0.5], prompt_ids=["a", "b"])
