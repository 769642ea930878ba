"""Calibration of soft verdicts, and cyclic triads."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.judges.calibration import (
    brier_score,
    cyclic_triads,
    expected_calibration_error,
    reliability_curve,
)


def test_known_answers() -> None:
    p, y = [0.95, 0.91, 0.12, 0.18, 1.0], [1, 0, 0, 0, 1]
    ece = expected_calibration_error(p, y)
    # Bin 9: mean p .95333, mean y 2/3, three verdicts. Bin 1: .15 and 0, two.
    assert ece.value == pytest.approx(100 * (3 / 5 * (2.86 / 3 - 2 / 3) + 2 / 5 * 0.15))
    assert (ece.n, ece.unit) == (5, "%")
    curve = reliability_curve(p, y)
    assert [(b.low, b.high, b.frequency.n) for b in curve] == [(0.1, 0.2, 2), (0.9, 1.0, 3)]
    assert curve[1].mean_probability == pytest.approx(286 / 3)
    assert curve[1].frequency.value == pytest.approx(200 / 3)
    brier = brier_score(p, y)
    assert brier.value == pytest.approx(np.mean((np.array(p) - y) ** 2))
    assert brier_score([0.5] * 4, [0, 1, 1, 0]).value == 0.25
    assert brier_score([1, 0], [1, 0]).value == 0


def test_one_bin_is_the_difference_of_the_means() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    assert expected_calibration_error(p, y, bins=1).value == pytest.approx(
        100 * abs(p.mean() - y.mean())
    )


@settings(max_examples=30, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=30)
)
def test_order_and_copies_do_not_matter_and_the_curve_adds_up(rows: list) -> None:
    p, y = map(list, zip(*rows, strict=True))
    ece = expected_calibration_error(p, y, samples=2)
    assert expected_calibration_error(p[::-1], y[::-1], samples=2).value == pytest.approx(ece.value)
    assert expected_calibration_error(p * 2, y * 2, samples=2).value == pytest.approx(ece.value)
    curve = reliability_curve(p, y, samples=2)
    assert sum(b.frequency.n for b in curve) == len(p)
    gaps = [b.frequency.n * abs(b.mean_probability - b.frequency.value) for b in curve]
    assert sum(gaps) / len(p) == pytest.approx(ece.value, abs=1e-9)


def test_a_calibrated_judge_comes_close_to_zero_and_prompts_are_resampled() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    assert expected_calibration_error(p, y, samples=20).value < 1.5
    prompts = np.repeat(np.arange(50), 10).astype(str)
    p, y = np.repeat(rng.random(50), 10), np.repeat(rng.integers(0, 2, 50), 10)
    wide = expected_calibration_error(p, y, bins=1, prompt_ids=prompts)
    narrow = expected_calibration_error(p, y, bins=1)
    assert wide.standard_error > 2 * narrow.standard_error  # type: ignore[operator]
    assert (
        brier_score(p, y, prompt_ids=prompts).standard_error > 2 * brier_score(p, y).standard_error
    )  # type: ignore[operator]


def test_calibration_refuses() -> None:
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5 at index 0"):
        expected_calibration_error([1.5], [1])
    with pytest.raises(ValueError, match="outcomes must be finite numbers, got nan at index 0"):
        brier_score([0.5], [np.nan])
    with pytest.raises(ValueError, match="numbers of rows differ: 2 p, 1 outcomes"):
        reliability_curve([0.5, 0.5], [1])
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        expected_calibration_error([0.5], [1], bins=0)
    assert expected_calibration_error([0.5], [1]).interval is None


# --- cyclic triads


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10_000), m=st.integers(3, 8))
def test_a_strict_tournament_is_kendalls_formula(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(0, 2, (m, m)), 1)
    p = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(m)
    wins = (p > 0.5).sum(axis=1)
    found = cyclic_triads(p)
    assert found.cyclic == math.comb(m, 3) - sum(math.comb(int(s), 2) for s in wins)
    assert (found.strict, found.tied, found.unmet) == (math.comb(m, 3), 0, 0)
    order = rng.permutation(m)
    assert cyclic_triads(p[np.ix_(order, order)]).cyclic == found.cyclic
    assert cyclic_triads(p.T).cyclic == found.cyclic


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_ties_and_gaps_are_counted_one_by_one(seed: int) -> None:
    rng, m = np.random.default_rng(seed), 6
    values = rng.choice([0.0, 0.3, 0.5, 0.9, np.nan], (m, m))
    p = np.triu(values, 1) + np.tril(np.full((m, m), np.nan))
    counts = {"cyclic": 0, "strict": 0, "tied": 0, "unmet": 0}
    for i, j, k in itertools.combinations(range(m), 3):
        trio = [p[i, j], p[j, k], p[i, k]]
        if np.isnan(trio).any():
            counts["unmet"] += 1
        elif 0.5 in trio:
            counts["tied"] += 1
        else:
            counts["strict"] += 1
            counts["cyclic"] += (trio[0] > 0.5) == (trio[1] > 0.5) != (trio[2] > 0.5)
    found = cyclic_triads(p)
    assert {name: getattr(found, name) for name in counts} == counts


def test_a_cycle_an_order_and_several_prompts() -> None:
    cycle = np.array([[np.nan, 1, 0], [0, np.nan, 1], [1, 0, np.nan]])
    order = np.array([[np.nan, 1, 1], [0, np.nan, 1], [0, 0, np.nan]])
    tied = np.where(np.isnan(order), np.nan, 0.5)
    found = cyclic_triads(np.stack([cycle, order, order, tied]))
    assert found.rate is not None
    assert (found.rate.value, found.rate.n, found.tied) == (pytest.approx(100 / 3), 3, 1)
    assert found.rate.interval is not None
    assert cyclic_triads(cycle).rate.interval is None  # type: ignore[union-attr]
    assert cyclic_triads(tied).rate is None


def test_triads_refuse() -> None:
    with pytest.raises(
        ValueError, match=r"must be \[N, M, M\] with M of at least 3, got shape \(1, 2, 2\)"
    ):
        cyclic_triads(np.full((2, 2), 0.5))
    with pytest.raises(
        ValueError, match=r"p_row_better must be in \[0, 1\], got 2.0 at index \[0, 0, 1\]"
    ):
        cyclic_triads(np.triu(np.full((3, 3), 2.0), 1))
    with pytest.raises(ValueError, match=r"cells at \[0, 0, 1\] and mirrored do not add up to 1"):
        cyclic_triads(np.full((3, 3), 0.9))
