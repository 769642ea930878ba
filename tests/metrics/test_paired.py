"""Models on the same prompts: known answers, exact p values, levels, symmetries, and what is
refused.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.statistics.intervals import mean_value, score_interval
from prefine.metrics.statistics.paired import (
    Outcomes,
    compare,
    compare_all,
    holm,
    paired_change,
    sign_test,
)

unit = st.sampled_from((0.0, 0.25, 0.5, 1.0))
both = st.lists(st.tuples(unit, unit), min_size=2, max_size=12)


def of(values, ids=None) -> Outcomes:
    return Outcomes([f"p{i:04}" for i in range(len(values))] if ids is None else ids, values)


def quick(first, second):
    return compare(first, second, samples=50, flips=99)


def test_known_answer():
    found = compare(of([1.0, 0.5, 1.0, 0.0]), of([0.0, 0.5, 0.5, 0.25]), samples=4000, seed=1)
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    assert (found.difference.name, found.difference.unit, found.difference.n) == (
        "difference",
        "points",
        4,
    )
    assert found.difference.value == pytest.approx(31.25)
    assert found.difference.standard_error == pytest.approx(
        100 * np.std([1, 0, 0.5, -0.25], ddof=1) / 2
    )
    assert found.sign_test == 1.0
    # Signs of 1, 1/2, -1/4: six of the eight patterns reach neither +1.25 nor -1.25 but 4 do.
    sums = [abs(a + b / 2 + c / 4) for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    assert found.mean_test == pytest.approx(np.mean([s >= 1.25 for s in sums]), abs=0.02)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (5, 0), (8, 2), (2, 8), (5, 5), (7, 6), (700, 640)]
)
def test_sign_test_is_the_exact_binomial(wins, losses):
    n, few = wins + losses, min(wins, losses)
    exact = min(Fraction(1), 2 * Fraction(sum(math.comb(n, k) for k in range(few + 1)), 2**n))
    assert sign_test(wins, losses) == pytest.approx(float(exact), rel=1e-12)


def test_sign_test_of_many_prompts_neither_overflows_nor_fails():
    assert sign_test(0, 5000) == 0.0
    assert sign_test(2500, 2500) == 1.0
    assert sign_test(9_900, 10_100) == pytest.approx(
        math.erfc(199 / math.sqrt(2 * 20_000)), rel=0.001
    )


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]


@given(pairs=both, seed=st.integers(0, 3))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_swapping_the_models_changes_the_sign_and_order_changes_nothing(pairs, seed):
    a, b = (list(column) for column in zip(*pairs, strict=True))
    one, other = quick(of(a), of(b)), quick(of(b), of(a))
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.interval == pytest.approx(
        (-other.difference.interval[1], -other.difference.interval[0])
    )
    assert (one.wins, one.sign_test, one.mean_test) == (
        other.losses,
        other.sign_test,
        other.mean_test,
    )
    ids = [f"p{i:04}" for i in range(len(a))]
    order = np.random.default_rng(seed).permutation(len(a))
    shuffled = of(np.array(a)[order], [ids[i] for i in order])
    assert quick(shuffled, of(b, ids)) == one


@given(pairs=both)
@settings(derandomize=True, max_examples=20, deadline=None)
def test_copies_of_every_prompt_leave_the_estimate(pairs):
    a, b = (list(column) for column in zip(*pairs, strict=True))
    assert quick(of(a * 2), of(b * 2)).difference.value == pytest.approx(
        quick(of(a), of(b)).difference.value
    )


def test_a_model_against_itself():
    values = np.random.default_rng(0).random(50)
    found = compare(of(values), of(values))
    assert (found.difference.value, found.difference.interval, found.difference.standard_error) == (
        0,
        (0, 0),
        0,
    )
    assert (found.ties, found.sign_test, found.mean_test) == (50, 1, 1)


@pytest.mark.torture
def test_interval_covers_and_both_tests_hold_their_level():
    rng = np.random.default_rng(1)
    covered = signs = means = 0
    for seed in range(300):
        difficulty = rng.normal(0, 2, 200)
        a, b = (rng.random(200) < 1 / (1 + np.exp(-difficulty)) for _ in range(2))
        found = compare(of(a), of(b), samples=300, flips=199, seed=seed)
        low, high = found.difference.interval
        covered += low <= 0 <= high
        signs += found.sign_test <= 0.05
        means += found.mean_test <= 0.05
    assert 0.92 <= covered / 300 <= 0.98
    assert signs / 300 <= 0.08
    assert means / 300 <= 0.08


def test_many_models_are_corrected_and_the_better_one_is_named():
    rng = np.random.default_rng(2)
    good, bad, same = np.clip(rng.normal([[0.6], [0.4], [0.4]], 0.2, (3, 200)), 0, 1)
    verdicts = compare_all({"good": of(good), "bad": of(bad), "same": of(same)}, flips=999)
    assert [(v.first, v.second, v.better) for v in verdicts] == [
        ("good", "bad", "good"),
        ("good", "same", "good"),
        ("bad", "same", None),
    ]
    assert all(v.corrected >= v.comparison.mean_test for v in verdicts)
    swapped = compare_all({"bad": of(bad), "good": of(good)}, flips=999)
    assert [v.better for v in swapped] == ["good"]


@pytest.mark.torture
def test_equal_models_are_rarely_called_better():
    rng = np.random.default_rng(3)
    wrong = sum(
        any(
            v.better
            for v in compare_all(
                {f"m{i}": of(rng.random(60)) for i in range(4)}, flips=999, samples=20
            )
        )
        for _ in range(100)
    )
    assert wrong <= 11


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"a": of([1.0, 0.0])}, "at least two models, got 1"),
        ({"a": of([1.0]), "b": of([0.0])}, "at least two prompts, got 1"),
        ({"a": of([]), "b": of([])}, "outcomes of 'a' must be a non-empty"),
        (
            {"a": of([1.0, np.nan]), "b": of([0, 0])},
            "outcomes of 'a' must be finite numbers, got nan at index 1",
        ),
        (
            {"a": of([1.0, 2.0]), "b": of([0, 0])},
            r"outcomes of 'a' must be in \[0, 1\], got 2.0 at index 1",
        ),
        (
            {"a": of([1, 0]), "b": of([1, 0], ["p0000", "x"])},
            "'a' and 'b' have different prompts: 2, such as 'p0001'",
        ),
        (
            {"a": of([1, 0]), "b": of([1, 0, 0])},
            "'a' and 'b' have different prompts: 1, such as 'p0002'",
        ),
        (
            {"a": of([1, 0]), "b": of([1, 0], ["x", "x"])},
            "prompts of 'b': 'x' is there twice, at 0 and 1",
        ),
        (
            {"a": of([1, 0], ["x", "x"]), "b": of([1, 0], ["x", "x"])},
            "prompts of 'a': 'x' is there twice, at 0 and 1",
        ),
        (
            {"a": of([1, 0], ["x"]), "b": of([1, 0])},
            "'a' and 'b' have different prompts: 3, such as 'p0000'",
        ),
    ],
)
def test_refusals(models, message):
    with pytest.raises(ValueError, match=message):
        compare_all(models)


def test_more_refusals():
    with pytest.raises(ValueError, match=r"cannot reach 0\.05 with 6 pairs"):
        compare_all({name: of([0, 1]) for name in "abcd"}, flips=99)
    with pytest.raises(ValueError, match="got -1 and 2"):
        sign_test(-1, 2)
    with pytest.raises(ValueError, match="p_values must be in"):
        holm([1.2])


def test_paired_change_is_that_of_the_differences():
    before, after = [3.0, 10.0, 4.0, 8.0], [5.0, 9.0, 10.0, 13.0]
    found = paired_change("length", before, after, unit="tokens")
    assert (found.value, found.n, found.unit) == (3.0, 4, "tokens")
    differences = np.subtract(after, before)
    assert found.standard_error == pytest.approx(differences.std(ddof=1) / 2)
    alone = mean_value("length", differences, unit="tokens")
    assert found.interval == alone.interval
    points = paired_change("share", [0, 1, 0, 1], [1, 1, 0, 1], unit="points", scale=100)
    assert points.value == 25
    low, high = score_interval([1, 0.5, 0.5, 0.5])
    assert points.interval == pytest.approx((200 * low - 100, 200 * high - 100))
    with pytest.raises(ValueError, match="numbers of rows differ"):
        paired_change("x", [1.0], [1.0, 2.0])


def test_equal_changes_are_not_certain():
    low, high = paired_change("x", [0.5] * 6, [0.5] * 6).interval
    assert low < -0.1 and high > 0.1
    assert paired_change("x", [3.0] * 6, [5.0] * 6).interval is None


def test_paired_change_covers_the_truth():
    """Flags of 300 prompts, 10 % of which turn to 1 and 4 % to 0."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        before, turned = rng.random(300) < 0.5, rng.random(300)
        after = np.where(turned < 0.2, 1, np.where(turned > 0.92, 0, before))
        low, high = paired_change("x", before, after, samples=2).interval
        covered += low <= 0.06 <= high
    assert 0.92 <= covered / 400 <= 0.98
