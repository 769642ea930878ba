"""Losses and regularizers against independent formulas: values, gradients, extremes, declarations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pair_values
import pytest
import torch
from pair_values import gradient

import reference
from prefine.losses.base import LossFunction, PairLogps
from prefine.losses.dpo import dpo
from prefine.losses.facts import kind_of, needs_of
from prefine.losses.ipo import ipo
from prefine.losses.simpo import simpo
from prefine.regularizers.budget import budget
from prefine.regularizers.nll import nll

COLUMNS: dict[str, tuple[str, ...]] = {
    "dpo": ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected"),
    "ipo": ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "chosen_tokens", "rejected_tokens"),
    "simpo": ("policy_chosen", "policy_rejected", "chosen_tokens", "rejected_tokens"),
    "nll": ("policy_chosen", "chosen_tokens"),
    "budget": ("policy_chosen", "initial_chosen", "chosen_tokens"),
}
FUNCTIONS: dict[str, LossFunction] = {"dpo": dpo, "ipo": ipo, "simpo": simpo, "nll": nll, "budget": budget}
# The parameters that the library is left to fill in are stated for the reference, which has no defaults.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpo", {}, {"beta": 0.1}),
    ("dpo", {"beta": 0.7}, {}),
    ("ipo", {}, {"beta": 0.1, "average": "token"}),
    ("ipo", {"beta": 0.7}, {"average": "token"}),
    ("ipo", {"average": "sum"}, {"beta": 0.1}),
    ("ipo", {"beta": 0.02, "average": "sum"}, {}),
    ("simpo", {}, {"beta": 2.0, "gamma": 1.6}),
    ("simpo", {"beta": 7.0}, {"gamma": 1.6}),
    ("simpo", {"gamma": 0.3}, {"beta": 2.0}),
    ("nll", {}, {"reduction": "sum"}),
    ("nll", {"reduction": "mean"}, {}),
    ("budget", {}, {"delta": 5.0, "per": "sequence"}),
    ("budget", {"delta": 1.5}, {"per": "sequence"}),
    ("budget", {"delta": -2.0}, {"per": "sequence"}),
    ("budget", {"delta": 0.05, "per": "token"}, {}),
]
IDS = [f"{name}-{given}" for name, given, _ in CASES]
cases = pytest.mark.parametrize(("name", "given", "defaults"), CASES, ids=IDS)


def _expected(name: str, values: PairLogps, options: dict[str, Any]) -> tuple[np.ndarray, reference.Grad]:
    columns = [getattr(values, column).numpy() for column in COLUMNS[name]]
    value: Callable[..., np.ndarray] = getattr(reference, name)
    slope: Callable[..., reference.Grad] = getattr(reference, f"{name}_grad")
    return value(*columns, **options), slope(*columns, **options)


@cases
def test_values_and_gradients_are_the_references(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    values = pair_values.logps()
    function = partial(FUNCTIONS[name], **given)
    expected, slope = _expected(name, values, given | defaults)
    np.testing.assert_allclose(function(values).numpy(), expected, rtol=1e-12, atol=0)
    chosen, rejected = gradient(function, values)
    np.testing.assert_allclose(chosen.numpy(), slope.policy_chosen, rtol=1e-12, atol=0)
    np.testing.assert_allclose(rejected.numpy(), slope.policy_rejected, rtol=1e-12, atol=0)
    assert np.any(slope.policy_chosen != 0)


@cases
def test_gradcheck(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    values = pair_values.logps(seed=1)

    def function(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return FUNCTIONS[name](replace(values, policy_chosen=chosen, policy_rejected=rejected), **given)

    leaves = (values.policy_chosen.clone().requires_grad_(), values.policy_rejected.clone().requires_grad_())
    assert torch.autograd.gradcheck(function, leaves, eps=1e-5, atol=1e-6)


@cases
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_float32_is_finite_and_right_far_out(
    name: str, given: dict[str, Any], defaults: dict[str, Any], shift: float
) -> None:
    values = pair_values.shifted(pair_values.logps(dtype=torch.float32), policy_chosen=shift)
    # Sums of -1e5 nats on both sides: a long answer under a bad model.
    values = pair_values.shifted(values, policy_rejected=-1e5, ref_rejected=-1e5, ref_chosen=-1e5, policy_chosen=-1e5)
    function = partial(FUNCTIONS[name], **given)
    found = function(values)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    for side in gradient(function, values):
        assert side.isfinite().all()
    exact = replace(
        values, **{column: getattr(values, column).double() for column in (*COLUMNS[name], "policy_rejected")}
    )
    expected, _ = _expected(name, exact, given | defaults)
    # Each of up to four float32 sums near 1e5 is rounded by 2^-8 nats at most; a square root undoes IPO's square.
    root = np.sqrt if name == "ipo" else np.asarray
    slope = max(given.get("beta", 1.0), 1.0)
    np.testing.assert_allclose(root(found.double().numpy()), root(expected), rtol=1e-5, atol=4 * 2**-8 * slope)


@cases
@pytest.mark.parametrize("kind", ["NaN", "other"])
def test_what_is_not_declared_is_not_read(
    name: str, given: dict[str, Any], defaults: dict[str, Any], kind: str
) -> None:
    values = pair_values.logps()
    function = partial(FUNCTIONS[name], **given)
    undeclared = {"p_chosen", "weight"}
    if "reference" not in needs_of(function):
        undeclared |= {"ref_chosen", "ref_rejected"}
    if "initial" not in needs_of(function):
        undeclared |= {"initial_chosen"}
    filler = torch.full((pair_values.PAIRS,), torch.nan if kind == "NaN" else 7.0, dtype=torch.float64)
    blinded = replace(values, **dict.fromkeys(undeclared, filler))
    assert torch.equal(function(blinded), function(values))
    for found, expected in zip(gradient(function, blinded), gradient(function, values), strict=True):
        assert torch.equal(found, expected)


@cases
def test_a_local_function_does_not_look_at_other_pairs(
    name: str, given: dict[str, Any], defaults: dict[str, Any]
) -> None:
    values = pair_values.logps()
    function = partial(FUNCTIONS[name], **given)
    assert kind_of(function) == "local"
    some = torch.tensor([4, 9, 2])
    assert torch.equal(function(values.rows(some)), function(values)[some])


@cases
def test_one_value_per_pair(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> None:
    values = pair_values.logps().rows(slice(3, 4))
    assert FUNCTIONS[name](values, **given).shape == (1,)
