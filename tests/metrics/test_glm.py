"""The penalised regression: the conditions of a minimum, an independent solver, closed forms,
folds.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from optimality import optimality_gap
from prefine.metrics.statistics.glm import (
    STRENGTHS,
    cross_validated_strength,
    penalised_logistic,
)


def problem(seed, rows=60, columns=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    x[:, -1] = 1
    y = rng.beta(0.5, 0.5, rows)
    w = rng.exponential(size=(4, rows)) * np.array([0.02, 0.3, 3.0, 1000.0])[:, None]
    return x, y, w


def objective(b, x, y, w):
    z = x @ b
    return np.abs(b).sum() + (w * (np.logaddexp(0, z) - y * z)).sum()


def proximal_gradient(x, y, w, steps=100_000):
    """A slow solver with nothing in common: gradient steps and soft thresholds."""
    size = 1 / np.linalg.eigvalsh((x.T * w) @ x / 4).max()
    b = momentum = np.zeros(x.shape[1])
    pace = 1.0
    for _ in range(steps):
        moved = momentum - size * ((w * (expit(x @ momentum) - y)) @ x)
        new = np.sign(moved) * np.maximum(np.abs(moved) - size, 0)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        momentum = new + (pace - 1) / faster * (new - b)
        if np.abs(new - b).max() < 1e-14 and np.abs(momentum - b).max() < 1e-14:
            break
        b, pace = new, faster
    return b


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_a_slow_solver(seed):
    x, y, w = problem(seed)
    found = penalised_logistic(x, y, w)
    for b, weights in zip(found[:3], w, strict=False):
        assert b == pytest.approx(proximal_gradient(x, y, weights, 20_000), abs=1e-8)


@given(seed=st.integers(0, 1000), columns=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_conditions_of_a_minimum_hold(seed, columns):
    x, y, w = problem(seed, columns=columns)
    found = penalised_logistic(x, y, w)
    assert optimality_gap(x, y, w, found).max() < 1e-10
    rng = np.random.default_rng(seed)
    for b, weights in zip(found, w, strict=True):
        best = objective(b, x, y, weights)
        near = b + 1e-3 * rng.normal(size=(20, columns))
        assert min(objective(other, x, y, weights) for other in near) >= best - 1e-9 * abs(best)


def test_a_wrong_answer_has_a_gap():
    x, y, w = problem(0)
    found = penalised_logistic(x, y, w)
    assert (optimality_gap(x, y, w, found + 1e-4) > 5e-5).any()
    assert (optimality_gap(x, y, w, np.zeros_like(found)) > 1e-3).any()


def test_a_constant_alone_has_a_closed_form():
    # The gradient of the loss is n w (p - mean y) = -sign(b).
    y, w = np.array([1.0, 1.0, 1.0, 0.0]), 2.0
    (b,) = penalised_logistic(np.ones((4, 1)), y, np.full(4, w))
    p = 0.75 - 1 / (4 * w)
    assert b[0] == pytest.approx(np.log(p / (1 - p)), abs=1e-12)
    assert penalised_logistic(np.ones((4, 1)), y, np.full(4, 0.9))[0, 0] == 0


def test_every_weighting_is_solved_as_if_alone_and_from_any_start():
    x, y, w = problem(5)
    together = penalised_logistic(x, y, w)
    for b, weights in zip(together, w, strict=True):
        assert penalised_logistic(x, y, weights)[0] == pytest.approx(b, abs=1e-10)
    assert penalised_logistic(x, y, w, start=[4.0, -4.0, 4.0]) == pytest.approx(together, abs=1e-10)


def test_copies_of_rows_weigh_like_their_number_and_order_does_not_matter():
    x, y, w = problem(6)
    twice = penalised_logistic(np.tile(x, (2, 1)), np.tile(y, 2), np.tile(w, 2) / 2)
    assert twice == pytest.approx(penalised_logistic(x, y, w), abs=1e-10)
    order = np.random.default_rng(0).permutation(len(y))
    assert penalised_logistic(x[order], y[order], w[:, order]) == pytest.approx(
        penalised_logistic(x, y, w), abs=1e-10
    )


def test_separated_rows_and_extreme_strengths_end():
    x = np.column_stack([np.linspace(-1, 1, 40), np.ones(40)])
    y = (x[:, 0] > 0).astype(float)
    found = penalised_logistic(x, y, STRENGTHS[:, None] * np.ones(40))
    assert np.isfinite(found).all()
    assert optimality_gap(x, y, STRENGTHS[:, None] * np.ones(40), found).max() < 1e-7
    assert (np.diff(found[:, 0]) >= 0).all()


def test_a_column_of_zeros_has_no_coefficient_and_a_repeated_one_does_no_harm():
    x, y, w = problem(7)
    zero = penalised_logistic(np.column_stack([x, 0 * y]), y, w)
    assert (zero[:, 3] == 0).all()
    assert zero[:, :3] == pytest.approx(penalised_logistic(x, y, w), abs=1e-9)
    double = penalised_logistic(np.column_stack([x, x[:, 0]]), y, w)
    assert double[:, 0] + double[:, 3] == pytest.approx(penalised_logistic(x, y, w)[:, 0], abs=1e-6)


def test_cross_validation_is_what_it_says():
    rng = np.random.default_rng(8)
    x = np.column_stack([rng.normal(size=53), np.ones(53)])
    y, s = rng.random(53), np.where(rng.random(53) < 0.5, 0.1, 1.0)
    scores = []
    for strength in STRENGTHS:
        fold_scores = []
        for fold in range(5):
            out = np.array([(53 - 1 - row) % 5 == fold for row in range(53)])
            (b,) = penalised_logistic(x[~out], y[~out], strength * s[~out])
            p = 1 / (1 + np.exp(-x[out] @ b))
            fold_scores.append(
                np.mean(s[out] * (y[out] * np.log(p) + (1 - y[out]) * np.log(1 - p)))
            )
        scores.append(np.mean(fold_scores))
    assert cross_validated_strength(x, y, s) == STRENGTHS[np.argmax(scores)]


@pytest.mark.parametrize(
    ("x", "y", "w", "message"),
    [
        (np.ones((3, 1)), [0, 1], [1, 1], "need features"),
        (np.ones((2, 1)), [0, 1.5], [1, 1], r"outcomes must be in \[0, 1\], got 1.5 at index 1"),
        (np.ones((2, 1)), [0, 1], [1, -1], "weights must not be negative, got -1.0"),
        (
            [[1], [np.nan]],
            [0, 1],
            [1, 1],
            r"features must be finite numbers, got nan at index \[1, 0\]",
        ),
    ],
)
def test_refusals(x, y, w, message):
    with pytest.raises(ValueError, match=message):
        penalised_logistic(x, y, w)


def test_too_few_rows_for_the_folds():
    with pytest.raises(ValueError, match="cross-validation in 5 folds needs as many rows, got 3"):
        cross_validated_strength(np.ones((3, 1)), [0, 1, 1], [1, 1, 1])
