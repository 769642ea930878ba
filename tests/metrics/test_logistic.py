"""Unpenalised logistic regression: the maximum, and what has none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.statistics.logistic import NoFiniteFitError, logistic_regression


def gradient(x: np.ndarray, y: np.ndarray, w: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return x.T @ (w * (y - 1 / (1 + np.exp(-(x @ beta)))))


@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_the_gradient_is_zero_at_the_fit_whatever_the_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 3)) * [1.0, scale, 1.0]
    y = rng.choice([0.0, 0.25, 0.5, 1.0], 60)
    w = rng.uniform(0.5, 3, 60)
    fit = logistic_regression(x, y, weights=w)
    assert np.abs(gradient(x, y, w, fit.coefficients) / [1.0, scale, 1.0]).max() < 1e-8
    q = 1 / (1 + np.exp(-(x @ fit.coefficients)))
    assert np.allclose(fit.covariance @ ((x.T * (w * q * (1 - q))) @ x), np.eye(3), atol=1e-6)


def test_an_intercept_alone_is_the_logit_of_the_mean() -> None:
    fit = logistic_regression(np.ones((8, 1)), [1, 1, 1, 0.5, 0, 1, 1, 1])
    p = 6.5 / 8
    assert fit.coefficients[0] == pytest.approx(np.log(p / (1 - p)), abs=1e-10)
    assert fit.covariance[0, 0] == pytest.approx(1 / (8 * p * (1 - p)))


def test_weights_are_repetitions_and_the_start_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    x, y, times = rng.standard_normal((30, 2)), rng.integers(0, 2, 30), rng.integers(0, 4, 30)
    weighted = logistic_regression(x, y, weights=times).coefficients
    repeated = logistic_regression(np.repeat(x, times, axis=0), np.repeat(y, times)).coefficients
    assert np.allclose(weighted, repeated, atol=1e-10)
    far = logistic_regression(x, y, weights=times, start=np.array([50.0, -80.0])).coefficients
    assert np.allclose(weighted, far, atol=1e-10)


def test_complete_separation_is_named() -> None:
    x = np.column_stack([np.ones(6), [-3, -2, -1, 1, 2, 3]])
    with pytest.raises(NoFiniteFitError, match=r"separated by .*style"):
        logistic_regression(x, [0, 0, 0, 1, 1, 1], names=["the score", "style"])


def test_quasi_separation_is_named_and_the_innocent_feature_is_not() -> None:
    rng = np.random.default_rng(0)
    # The second feature is 0 but for two rows, both won.
    x = np.column_stack([np.ones(40), np.r_[1.0, 1.0, np.zeros(38)], rng.standard_normal(40)])
    y = np.r_[1, 1, rng.integers(0, 2, 38)]
    with pytest.raises(NoFiniteFitError, match="separated by rare:"):
        logistic_regression(x, y, names=["one", "rare", "free"])


def test_a_tie_in_the_way_is_no_separation() -> None:
    x = np.column_stack([np.ones(6), [-2, -1.5, -1, 1, 1.5, 2]])
    fit = logistic_regression(x, [0, 0.5, 0, 1, 0.5, 1])
    assert fit.coefficients == pytest.approx([0, 1.03314], abs=1e-5)
    # One tie alone leaves a direction that separates: the line through it.
    with pytest.raises(NoFiniteFitError, match="separated"):
        logistic_regression(np.column_stack([np.ones(5), [-2, -1, 0, 1, 2]]), [0, 0, 0.5, 1, 1])


def test_a_far_outlier_on_its_own_side_is_no_separation() -> None:
    x = np.column_stack([np.ones(9), np.r_[np.linspace(-1, 1, 8), 1e4]])
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1.0])
    fit = logistic_regression(x, y)
    assert np.abs(gradient(x, y, np.ones(9), fit.coefficients))[0] < 1e-8


def test_dependent_features_are_named() -> None:
    x = np.column_stack([np.ones(5), np.arange(5.0), 2 * np.arange(5.0) + 1])
    with pytest.raises(
        NoFiniteFitError, match="c is the same in all 5 rows as a combination of a, b"
    ):
        logistic_regression(x, [0, 1, 0, 1, 0], names=["a", "b", "c"])


@pytest.mark.parametrize(
    ("x", "y", "w", "message"),
    [
        (
            [[1.0], [np.nan]],
            [0, 1],
            None,
            r"features must be finite numbers, got nan at index \[1, 0\]",
        ),
        ([[1.0], [1.0]], [0, 2], None, "outcomes must be in .0, 1., got 2.0 at index 1"),
        ([[1.0], [1.0]], [0, 1], [1, -1], "weights must not be negative, got -1.0 at index 1"),
        ([[1.0], [1.0]], [0, 1], [0, 0], "all weights are 0"),
        ([[1.0], [1.0]], [0], None, "need features"),
        (np.zeros((0, 1)), [], None, "need features"),
    ],
)
def test_refusals(x: object, y: object, w: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logistic_regression(x, y, weights=w)
