"""The reference formulas themselves: gradients by central differences, known values, identities of METHODS.md §16."""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

import reference
from reference import Array, Grad

PAIRS = 64
RNG = np.random.default_rng(0)
CHOSEN_TOKENS = RNG.integers(1, 60, PAIRS).astype(np.float64)
REJECTED_TOKENS = RNG.integers(1, 60, PAIRS).astype(np.float64)
REF_CHOSEN = -RNG.gamma(2.0, 0.5, PAIRS) * CHOSEN_TOKENS
REF_REJECTED = -RNG.gamma(2.0, 0.5, PAIRS) * REJECTED_TOKENS
POLICY_CHOSEN = REF_CHOSEN + RNG.normal(0.0, 3.0, PAIRS)
POLICY_REJECTED = REF_REJECTED + RNG.normal(0.0, 3.0, PAIRS)
POLICY = (POLICY_CHOSEN, POLICY_REJECTED)
REFS = (REF_CHOSEN, REF_REJECTED)
TOKENS = (CHOSEN_TOKENS, REJECTED_TOKENS)

Case = tuple[Callable[[Array, Array], Array], Callable[[Array, Array], Grad]]


def _dpo(beta: float) -> Case:
    return (
        lambda chosen, rejected: reference.dpo(chosen, rejected, *REFS, beta=beta),
        lambda chosen, rejected: reference.dpo_grad(chosen, rejected, *REFS, beta=beta),
    )


def _ipo(beta: float, average: Literal["token", "sum"]) -> Case:
    return (
        lambda chosen, rejected: reference.ipo(chosen, rejected, *REFS, *TOKENS, beta=beta, average=average),
        lambda chosen, rejected: reference.ipo_grad(chosen, rejected, *REFS, *TOKENS, beta=beta, average=average),
    )


def _simpo(beta: float, gamma: float) -> Case:
    return (
        lambda chosen, rejected: reference.simpo(chosen, rejected, *TOKENS, beta=beta, gamma=gamma),
        lambda chosen, rejected: reference.simpo_grad(chosen, rejected, *TOKENS, beta=beta, gamma=gamma),
    )


def _nll(reduction: Literal["sum", "mean"]) -> Case:
    return (
        lambda chosen, rejected: reference.nll(chosen, CHOSEN_TOKENS, reduction=reduction),
        lambda chosen, rejected: reference.nll_grad(chosen, CHOSEN_TOKENS, reduction=reduction),
    )


def _budget(delta: float, per: Literal["sequence", "token"]) -> Case:
    return (
        lambda chosen, rejected: reference.budget(chosen, REF_CHOSEN, CHOSEN_TOKENS, delta=delta, per=per),
        lambda chosen, rejected: reference.budget_grad(chosen, REF_CHOSEN, CHOSEN_TOKENS, delta=delta, per=per),
    )


CASES: dict[str, Case] = {
    "dpo": _dpo(0.1),
    "dpo-beta": _dpo(0.7),
    "ipo-token": _ipo(0.1, "token"),
    "ipo-token-beta": _ipo(0.7, "token"),
    "ipo-sum": _ipo(0.1, "sum"),
    "ipo-sum-beta": _ipo(0.7, "sum"),
    "simpo": _simpo(2.0, 1.0),
    "simpo-no-margin": _simpo(2.0, 0.0),
    "simpo-beta": _simpo(10.0, 3.0),
    "nll-sum": _nll("sum"),
    "nll-mean": _nll("mean"),
    "budget-sequence": _budget(1.5, "sequence"),
    "budget-sequence-0": _budget(0.0, "sequence"),
    "budget-token": _budget(0.05, "token"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradient_is_the_central_difference(case: Case) -> None:
    values, grads = case
    step = 1e-5
    up, down = values(POLICY_CHOSEN + step, POLICY_REJECTED), values(POLICY_CHOSEN - step, POLICY_REJECTED)
    chosen = (up - down) / (2 * step)
    up, down = values(POLICY_CHOSEN, POLICY_REJECTED + step), values(POLICY_CHOSEN, POLICY_REJECTED - step)
    rejected = (up - down) / (2 * step)
    # Rounding: an argument of size 200 is known to 3e-14, divided by 2e-5, times the slope; truncation is below that.
    expected = grads(*POLICY)
    np.testing.assert_allclose(expected.policy_chosen, chosen, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(expected.policy_rejected, rejected, rtol=1e-7, atol=1e-8)
    assert np.any(expected.policy_chosen != 0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_values_and_gradients_are_finite_far_out(case: Case, shift: float) -> None:
    values, grads = case
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.all(np.isfinite(values(POLICY_CHOSEN + shift, POLICY_REJECTED)))
        assert np.all(np.isfinite(np.stack(grads(POLICY_CHOSEN + shift, POLICY_REJECTED))))


def test_dpo_far_out_is_linear_on_the_wrong_side_and_flat_on_the_right_one() -> None:
    wrong = reference.dpo([-1e4], [0.0], [0.0], [0.0], beta=0.3)
    np.testing.assert_allclose(wrong, [3e3], rtol=1e-15)
    gradient = reference.dpo_grad([-1e4, 1e4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], beta=0.3)
    np.testing.assert_array_equal(gradient.policy_chosen, [-0.3, 0.0])


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("average", ["token", "sum"])
def test_values_at_the_initial_policy(beta: float, average: Literal["token", "sum"]) -> None:
    np.testing.assert_allclose(reference.dpo(*REFS, *REFS, beta=beta), math.log(2), rtol=1e-15)
    ipo = reference.ipo(*REFS, *REFS, *TOKENS, beta=beta, average=average)
    np.testing.assert_allclose(ipo, 1 / (4 * beta**2), rtol=1e-15)
    np.testing.assert_array_equal(reference.budget(REF_CHOSEN, REF_CHOSEN, CHOSEN_TOKENS, delta=0, per="token"), 0)
    np.testing.assert_array_equal(
        reference.budget_grad(REF_CHOSEN, REF_CHOSEN, CHOSEN_TOKENS, delta=0, per="sequence"), 0
    )


def test_values_worked_by_hand() -> None:
    """One pair: lw -6 over 3 tokens, ll -10 over 4, rw -5, rl -8, so a = -1, c = -2, D = 1, D_avg = 1/6."""
    dpo = reference.dpo([-6.0], [-10.0], [-5.0], [-8.0], beta=0.5)
    np.testing.assert_allclose(dpo, math.log(1 + math.exp(-0.5)), rtol=1e-15)
    pair = ([-6.0], [-10.0], [-5.0], [-8.0], [3], [4])
    np.testing.assert_allclose(reference.ipo(*pair, beta=0.5, average="token"), (1 / 6 - 1) ** 2, rtol=1e-15)
    np.testing.assert_array_equal(reference.ipo(*pair, beta=0.25, average="sum"), [1.0])
    simpo = reference.simpo([-6.0], [-10.0], [3], [4], beta=2.0, gamma=1.6)
    np.testing.assert_allclose(simpo, math.log(1 + math.exp(0.6)), rtol=1e-15)
    np.testing.assert_array_equal(reference.nll([-6.0], [3], reduction="mean"), [2.0])
    np.testing.assert_array_equal(reference.nll([-6.0], [3], reduction="sum"), [6.0])
    np.testing.assert_array_equal(reference.budget([-6.0], [-5.0], [3], delta=0.25, per="sequence"), [0.75])
    np.testing.assert_allclose(reference.budget([-6.0], [-5.0], [3], delta=0.25, per="token"), [1 / 3 - 0.25])
    assert reference.objective([1.0, 4.0], [3.0, 1.0]) == 1.75


@pytest.mark.parametrize(("per", "reduction"), [("sequence", "sum"), ("token", "mean")])
def test_budget_that_is_always_exceeded_has_the_gradient_of_the_nll(
    per: Literal["sequence", "token"], reduction: Literal["sum", "mean"]
) -> None:
    np.testing.assert_array_equal(
        reference.budget_grad(POLICY_CHOSEN, REF_CHOSEN, CHOSEN_TOKENS, delta=-1e9, per=per),
        reference.nll_grad(POLICY_CHOSEN, CHOSEN_TOKENS, reduction=reduction),
    )


def test_simpo_without_margin_at_equal_lengths_is_dpo_without_reference() -> None:
    length = np.full(PAIRS, 7.0)
    zero = np.zeros(PAIRS)
    np.testing.assert_allclose(
        reference.simpo(*POLICY, length, length, beta=2.0, gamma=0.0),
        reference.dpo(*POLICY, zero, zero, beta=2.0 / 7),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("delta", "drop", "margin"),
    [(0.25, 0.2209, 0.1045), (0.5, 0.4556, 0.1175), (1.0, 0.9298, 0.1435), (2.0, 1.8992, 0.195)],
)
def test_toy_drop_stays_inside_the_budget(delta: float, drop: float, margin: float) -> None:
    assert reference.toy(delta, 1.0) == pytest.approx((drop, margin), rel=1e-3)


def test_toy_without_budget_loses_the_chosen_outcome() -> None:
    assert reference.toy(math.inf, 0.0).drop == pytest.approx(36.16, rel=1e-3)
    assert reference.toy(1.0, 0.0) == reference.toy(math.inf, 1.0)


def test_toy_with_an_empty_budget_does_not_move_the_chosen_outcome() -> None:
    drop, margin = reference.toy(0.0, 1.0)
    # The hinge moves the drop by lr * lam * ||d lw||^2 below zero; there, d lw = (.36, -1.70), so by .03.
    assert -0.031 < drop < 0
    assert margin == pytest.approx(0.083, rel=1e-3)


def test_scan_p_best() -> None:
    assert reference.scan_p_best(5, 0.9) == pytest.approx(0.75024, abs=1e-12)
    assert reference.scan_p_best(1, 0.6) == 1
    assert reference.scan_p_best(9, 1.0) == 1
    assert reference.scan_p_best(2, 0.8) == pytest.approx(0.8)


def test_scan_p_best_is_what_a_scan_does() -> None:
    rng, trials, found = np.random.default_rng(1), 20_000, 0
    for _ in range(trials):
        champion, *challengers = rng.permutation(5)
        for challenger in challengers:
            right = rng.random() < 0.9
            champion = max(champion, challenger) if right else min(champion, challenger)
        found += champion == 4
    # Four standard errors.
    assert found / trials == pytest.approx(0.75024, abs=4 * math.sqrt(0.75 * 0.25 / trials))
