"""Identities between methods, and what is known at the initial policy."""

import math
from dataclasses import replace

import pair_values
import pytest
import torch
from pair_values import gradient, shifted, swapped
from torch import Tensor

from prefine.losses.base import LossFunction, PairLogps
from prefine.losses.dpo import dpo
from prefine.losses.ipo import ipo
from prefine.losses.simpo import simpo
from prefine.regularizers.budget import budget
from prefine.regularizers.nll import nll

VALUES = pair_values.logps()
AT_START = replace(
    VALUES, policy_chosen=VALUES.ref_chosen, policy_rejected=VALUES.ref_rejected, initial_chosen=VALUES.ref_chosen
)
EQUAL_LENGTHS = replace(VALUES, rejected_tokens=VALUES.chosen_tokens)


def _close(found: Tensor, expected: Tensor | float) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=torch.float64).expand_as(found), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_values_at_the_initial_policy(beta: float) -> None:
    _close(dpo(AT_START, beta=beta), math.log(2))
    _close(ipo(AT_START, beta=beta, average="sum"), 1 / (4 * beta**2))
    _close(ipo(AT_START, beta=beta, average="token"), 1 / (4 * beta**2))
    assert torch.equal(budget(AT_START, delta=0.0), torch.zeros(pair_values.PAIRS, dtype=torch.float64))


def test_ipo_is_zero_at_its_optimum() -> None:
    at_optimum = replace(AT_START, policy_chosen=AT_START.policy_chosen + 2.5)
    _close(ipo(at_optimum, beta=0.2, average="sum"), 0.0)


def test_exchanging_the_sides_negates_the_margin() -> None:
    _close(swapped(VALUES).margin, -VALUES.margin)
    # -log s(x) + log s(-x) = -x.
    _close(dpo(VALUES, beta=0.3) - dpo(swapped(VALUES), beta=0.3), -0.3 * VALUES.margin)
    # (D - c)^2 - (-D - c)^2 = -4 c D.
    _close(
        ipo(VALUES, beta=0.3, average="sum") - ipo(swapped(VALUES), beta=0.3, average="sum"),
        -4 / 0.6 * VALUES.margin,
    )
    gap = VALUES.policy_chosen / VALUES.chosen_tokens - VALUES.policy_rejected / VALUES.rejected_tokens
    _close(simpo(VALUES, beta=3.0, gamma=0.0) - simpo(swapped(VALUES), beta=3.0, gamma=0.0), -3.0 * gap)


@pytest.mark.parametrize("columns", [("policy_chosen", "policy_rejected"), ("ref_chosen", "ref_rejected")])
def test_what_both_sides_gain_cancels(columns: tuple[str, str]) -> None:
    by = dict.fromkeys(columns, 3.7)
    _close(dpo(shifted(VALUES, **by)), dpo(VALUES))
    _close(ipo(shifted(VALUES, **by), average="sum"), ipo(VALUES, average="sum"))
    _close(ipo(shifted(EQUAL_LENGTHS, **by)), ipo(EQUAL_LENGTHS))
    _close(simpo(shifted(EQUAL_LENGTHS, **by)), simpo(EQUAL_LENGTHS))
    # Averaged over different lengths, it does not; and the budget looks at one side alone.
    if columns[0] == "policy_chosen":
        assert not torch.allclose(simpo(shifted(VALUES, **by)), simpo(VALUES))
        assert not torch.allclose(budget(shifted(VALUES, **by), delta=0.0), budget(VALUES, delta=0.0))


def test_simpo_without_margin_at_equal_lengths_is_a_sum_loss_with_beta_over_length() -> None:
    gap = EQUAL_LENGTHS.policy_chosen - EQUAL_LENGTHS.policy_rejected
    expected = -torch.nn.functional.logsigmoid(2.0 / EQUAL_LENGTHS.chosen_tokens * gap)
    _close(simpo(EQUAL_LENGTHS, beta=2.0, gamma=0.0), expected)


def test_sum_and_token_forms_agree_on_answers_of_one_token() -> None:
    one = torch.ones_like(VALUES.chosen_tokens)
    short = replace(VALUES, chosen_tokens=one, rejected_tokens=one)
    _close(ipo(short, average="token"), ipo(short, average="sum"))
    _close(nll(short, reduction="mean"), nll(short, reduction="sum"))
    _close(budget(short, delta=0.5, per="token"), budget(short, delta=0.5, per="sequence"))


@pytest.mark.parametrize("base", [dpo, ipo, simpo])
@pytest.mark.parametrize(("weight", "delta"), [(0.0, 0.0), (0.7, 1e9)])
def test_a_budget_without_weight_or_without_end_is_the_loss_alone(
    base: LossFunction, weight: float, delta: float
) -> None:
    def total(logps: PairLogps) -> Tensor:
        return base(logps) + weight * budget(logps, delta=delta)

    assert torch.equal(total(VALUES), base(VALUES))
    for found, expected in zip(gradient(total, VALUES), gradient(base, VALUES), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("base", [dpo, ipo, simpo])
@pytest.mark.parametrize(("per", "reduction"), [("sequence", "sum"), ("token", "mean")])
def test_a_budget_that_is_always_exceeded_pushes_like_next_token_regularization(
    base: LossFunction, per: str, reduction: str
) -> None:
    found = gradient(lambda logps: base(logps) + 0.7 * budget(logps, delta=-1e9, per=per), VALUES)
    expected = gradient(lambda logps: base(logps) + 0.7 * nll(logps, reduction=reduction), VALUES)
    for side, wanted in zip(found, expected, strict=True):
        _close(side, wanted)


def test_an_additive_budget_of_zero_is_not_a_penalty_inside_the_sigmoid() -> None:
    fallen = shifted(AT_START, policy_chosen=-2.0)
    inside = -torch.nn.functional.logsigmoid(0.1 * (fallen.margin - 2.0))
    assert not torch.allclose(dpo(fallen) + budget(fallen, delta=0.0), inside)


def test_inside_the_budget_nothing_is_pushed() -> None:
    chosen, rejected = gradient(lambda logps: budget(logps, delta=1.0), shifted(AT_START, policy_chosen=-0.9))
    assert not chosen.any() and not rejected.any()
