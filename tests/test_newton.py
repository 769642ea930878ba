"""The damped Newton steps: the minimum from every start, independent problems, giving up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.newton import Array, Indices, LocalLoss, newton


def losses(rng: np.random.Generator, problems: int = 6) -> tuple[Array, Array]:
    return rng.normal(size=(problems, 25, 3)), rng.choice([0.0, 0.3, 1.0], (problems, 25))


def fit(x: Array, y: Array, start: Array, precision: float = 0.01, **options: object) -> Array:
    def local_loss(b: Array, rows: Indices) -> LocalLoss:
        design = x[rows]
        q = 0.5 + 0.5 * np.tanh(0.5 * np.einsum("nrk,nk->nr", design, b))
        gradient = np.einsum("nr,nrk->nk", q - y[rows], design) + precision * b
        hessian = np.einsum("nr,nrk,nrl->nkl", q * (1 - q), design, design)
        return LocalLoss(
            gradient,
            hessian + precision * np.eye(x.shape[2]),
            lambda step: np.abs(np.einsum("nrk,nk->nr", design, step)).max(axis=1),
        )

    return newton(local_loss, start, **options)


def gradients(x: Array, y: Array, b: Array, precision: float) -> Array:
    q = 1 / (1 + np.exp(-np.einsum("nrk,nk->nr", x, b)))
    return np.einsum("nr,nrk->nk", q - y, x) + precision * b


@settings(max_examples=20, derandomize=True)
@given(seed=st.integers(0, 1000), precision=st.sampled_from([0.01, 0.3, 10.0]))
def test_the_gradient_is_zero_from_every_start(seed: int, precision: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = losses(rng)
    near = fit(x, y, np.zeros((6, 3)), precision)
    assert np.abs(gradients(x, y, near, precision)).max() < 1e-8
    assert fit(x, y, rng.normal(scale=50, size=(6, 3)), precision) == pytest.approx(near, abs=1e-8)


def test_each_problem_is_solved_as_if_alone_and_the_start_is_left_as_it_is() -> None:
    x, y = losses(np.random.default_rng(0))
    start = np.full((6, 3), 2.0)
    together = fit(x, y, start)
    assert (start == 2).all()
    for k in range(6):
        alone = fit(x[k : k + 1], y[k : k + 1], start[k : k + 1])
        assert alone[0] == pytest.approx(together[k], abs=1e-10)


def test_no_problem_has_no_coefficients() -> None:
    assert fit(np.zeros((0, 5, 3)), np.zeros((0, 5)), np.zeros((0, 3))).shape == (0, 3)


def test_it_gives_up_with_advice_and_never_calls_nan_done() -> None:
    x, y = losses(np.random.default_rng(0), problems=2)
    with pytest.raises(ArithmeticError, match=r"2 of 2 problems after 2 steps; more data"):
        fit(x, y, np.full((2, 3), 99.0), most_steps=2, advice="; more data")
    y[1] = np.nan
    with pytest.raises(ArithmeticError, match="1 of 2 problems"):
        fit(x, y, np.zeros((2, 3)))
