"""Prediction-powered win rates: the formula, coverage, worthless judges, what is refused."""

import math

import numpy as np
import pytest

from prefine.metrics import percentage, prediction_powered, score_interval

Draws = tuple[np.ndarray, np.ndarray]


def draws(rng: np.random.Generator, size: int, *, noise: float) -> Draws:
    """Labels of people, 60 % wins and 10 % ties, and a biased soft judge of them."""
    y = rng.choice([1.0, 0.5, 0.0], size, p=[0.55, 0.1, 0.35])
    f = np.clip(0.3 + 0.5 * y + rng.normal(0, noise, size), 0, 1)
    return y, f


def test_the_formula() -> None:
    y, f = draws(np.random.default_rng(1), 130, noise=0.5)
    found = prediction_powered(y[:30], f[:30], f[30:])
    # The formulas of the docstring in plain Python.
    n, more = 30, 100
    mean_y, mean_f = sum(y[:n]) / n, sum(f[:n]) / n
    cov = sum((a - mean_y) * (b - mean_f) for a, b in zip(y[:n], f[:n], strict=True)) / (n - 1)
    mean_all = sum(f) / 130
    var_f = sum((b - mean_all) ** 2 for b in f) / 129
    weight = min(max(cov / ((1 + n / more) * var_f), 0), 1)
    assert 0 < weight < 1
    theta = mean_y + weight * (sum(f[n:]) / more - mean_f)
    rest = [a - weight * b for a, b in zip(y[:n], f[:n], strict=True)]
    mean_rest = sum(rest) / n
    variance = sum((r - mean_rest) ** 2 for r in rest) / (n - 1) / n + weight**2 * var_f / more
    assert found.weight == pytest.approx(weight, rel=1e-12)
    assert found.estimate.value == pytest.approx(100 * theta, rel=1e-12)
    assert found.estimate.standard_error == pytest.approx(100 * math.sqrt(variance), rel=1e-12)
    var_y = sum((a - mean_y) ** 2 for a in y[:n]) / (n - 1)
    assert found.worth == pytest.approx(var_y / variance - n, rel=1e-9)
    low, high = found.estimate.interval or (0, 0)
    assert low < found.estimate.value < high
    assert found.estimate.n == 30
    assert found.comparisons == 130


def test_a_constant_judge_leaves_the_labels_alone() -> None:
    y, _ = draws(np.random.default_rng(2), 40, noise=0.3)
    for judge in (0.7, 0.5):
        found = prediction_powered(y, [judge] * 40, [judge] * 60)
        assert (found.weight, found.worth, found.adds_nothing) == (0, 0, True)
        assert found.estimate.value == pytest.approx(percentage("labels", y).value)
        low, high = score_interval(y)
        assert found.estimate.interval == pytest.approx((100 * low, 100 * high))


def test_a_judge_that_says_the_opposite_has_no_weight() -> None:
    y, f = draws(np.random.default_rng(3), 200, noise=0.1)
    found = prediction_powered(y[:50], 1 - f[:50], 1 - f[50:])
    assert (found.weight, found.worth, found.adds_nothing) == (0, 0, True)


def test_a_judge_that_knows_everything_is_worth_the_other_comparisons() -> None:
    y, _ = draws(np.random.default_rng(4), 1000, noise=0)
    found = prediction_powered(y[:50], y[:50], y[50:])
    assert found.weight == pytest.approx(0.95, abs=0.06)
    assert found.worth == pytest.approx(950, rel=0.15)
    assert found.estimate.value == pytest.approx(100 * y.mean(), abs=1.5)


def test_labels_on_everything_leave_nothing_to_the_judge() -> None:
    y, f = draws(np.random.default_rng(5), 60, noise=0.1)
    found = prediction_powered(y, f, [])
    assert (found.weight, found.adds_nothing) == (0, True)
    assert found.estimate.value == pytest.approx(100 * y.mean())
    assert found.labels_needed(1) is None


def test_missing_verdicts_are_left_out_and_are_no_ties() -> None:
    y, f = draws(np.random.default_rng(6), 100, noise=0.2)
    known = prediction_powered(y[:30], f[:30], f[30:90])
    some = prediction_powered(
        [*y[:30], 1.0, 0.0], [*f[:30], None, math.nan], [*f[30:90], None, None, math.nan]
    )
    assert some == known._replace(missing=5)
    ties = prediction_powered([*y[:30], 1.0, 0.0], [*f[:30], 0.5, 0.5], [*f[30:90], 0.5])
    assert ties.estimate != known.estimate


def test_needed_labels_make_the_interval_as_narrow_as_wished() -> None:
    y, f = draws(np.random.default_rng(7), 2000, noise=0.2)
    found = prediction_powered(y[:50], f[:50], f[50:])
    assert found.labels_needed(40) == 0
    needed = found.labels_needed(6)
    assert needed is not None
    more = 50 + needed
    low, high = prediction_powered(y[:more], f[:more], f[more:]).estimate.interval or (0, 0)
    assert (high - low) / 2 == pytest.approx(6, rel=0.15)
    # By labels alone about (1.96 sd / half-width)^2, a little more by the wider interval of few.
    alone = prediction_powered(y[:50], [0.5] * 50, [0.5] * 1950)
    sd = float(np.std(y[:50], ddof=1))
    assert alone.labels_needed(6) == pytest.approx((1.959964 * sd / 0.06) ** 2 - 50, rel=0.1)
    assert found.labels_needed(0.5) is None
    # Nothing but wins: n' (of labels alone) is 20 times the square of how much too wide it is.
    wins = prediction_powered([1.0] * 20, [0.5] * 20, [0.5] * 1980)
    low, high = (100 * end for end in score_interval([1.0] * 20))
    assert wins.estimate.interval == (pytest.approx(low), 100)
    assert wins.labels_needed(4) == math.ceil(20 * ((high - low) / 8) ** 2) - 20
    with pytest.raises(ValueError, match="half_width must be above 0"):
        found.labels_needed(0)


def test_what_is_refused() -> None:
    y, f = draws(np.random.default_rng(8), 40, noise=0.2)
    with pytest.raises(ValueError, match=r"19 labels with a verdict of the judge; .* needs 20"):
        prediction_powered(y[:20], [None, *f[1:20]], f[20:])
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\], got 1.5 at index 3"):
        prediction_powered([*y[:3], 1.5, *y[4:30]], f[:30], f[30:])
    with pytest.raises(ValueError, match="labels must be finite"):
        prediction_powered([*y[:29], math.nan], f[:30], f[30:])
    with pytest.raises(ValueError, match="numbers of rows differ: 30 labels, 29 judge"):
        prediction_powered(y[:30], f[:29], f[30:])


@pytest.mark.parametrize("noise", [0.1, 0.4, 5.0])
@pytest.mark.parametrize(("labels", "others"), [(20, 100), (60, 400)])
def test_intervals_cover_and_a_useless_judge_is_worth_nothing(
    noise: float, labels: int, others: int
) -> None:
    rng = np.random.default_rng(9)
    found = []
    for _ in range(400):
        y, f = draws(rng, labels + others, noise=noise)
        if noise == 5.0:
            f = rng.permutation(f)
        found.append(prediction_powered(y[:labels], f[:labels], f[labels:]))
    covered = [one.estimate.interval[0] <= 60 <= one.estimate.interval[1] for one in found]  # type: ignore[index]
    # .93 minus three standard errors of 400 repeats; `benchmarks/annotation.py` makes 2,000.
    assert np.mean(covered) > 0.93 - 3 * math.sqrt(0.95 * 0.05 / 400)
    if noise == 5.0:
        assert np.median([one.worth for one in found]) == 0
        assert np.mean([one.adds_nothing for one in found]) > 0.9
    elif noise == 0.1:
        assert not any(one.adds_nothing for one in found)
