"""The budget on a model of three outcomes: DPO alone loses the chosen outcome, a budget holds
it and buys margin.
"""

import math

import pytest
import torch
from torch import Tensor

import reference
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import PairLogps
from prefine.losses.regularizers.budget import budget

BETA, RATE, TAIL = 0.5, 0.01, 2_000
DELTAS = (0.0, 0.25, 0.5, 1.0, 2.0)
FEATURES = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 5.0]], dtype=torch.float64)


def _descend(deltas: list[float | None], steps: int) -> tuple[Tensor, Tensor]:
    """Mean fall over the last steps and last margin of one run per delta (None: no budget), run
    side by side.
    """
    runs = len(deltas)
    theta = torch.zeros(runs, 2, dtype=torch.float64, requires_grad=True)
    one, start = (
        torch.ones(runs, dtype=torch.float64),
        torch.full((runs,), -math.log(3), dtype=torch.float64),
    )
    delta = torch.tensor([0.0 if value is None else value for value in deltas], dtype=torch.float64)
    weight = torch.tensor([0.0 if value is None else 1.0 for value in deltas], dtype=torch.float64)
    tail = torch.zeros(runs, dtype=torch.float64)

    def values() -> PairLogps:
        logps = (theta @ FEATURES.T).log_softmax(1)
        return PairLogps(
            policy_chosen=logps[:, 0],
            policy_rejected=logps[:, 1],
            ref_chosen=start,
            ref_rejected=start,
            initial_chosen=start,
            chosen_tokens=one,
            rejected_tokens=one,
            p_chosen=one,
            weight=one,
            pairs_in_step=runs,
            chosen_tokens_in_step=runs,
        )

    logps = values()
    for step in range(steps):
        # The function takes a number; a column of deltas broadcasts just the same.
        total = (dpo(logps, beta=BETA) + weight * budget(logps, delta=delta)).sum()  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(total, theta)
        with torch.no_grad():
            theta -= RATE * slope
        logps = values()
        if step >= steps - TAIL:
            tail += (start - logps.policy_chosen).detach() / TAIL
    return tail, logps.margin.detach()


def _check_against_the_reference(steps: int) -> tuple[list[float], list[float]]:
    falls, margins = (values.tolist() for values in _descend([None, *DELTAS], steps))
    expected = [reference.toy(math.inf, 0.0, steps=steps)]
    expected += [reference.toy(delta, 1.0, steps=steps) for delta in DELTAS]
    assert falls == pytest.approx([toy.drop for toy in expected], rel=1e-3, abs=1e-6)
    assert margins == pytest.approx([toy.margin for toy in expected], rel=1e-3)
    return falls, margins


def test_the_fall_stays_at_the_budget_and_a_larger_budget_buys_margin() -> None:
    falls, margins = _check_against_the_reference(steps=3_000)
    assert all(delta - 0.13 <= fall <= delta for delta, fall in zip(DELTAS, falls[1:], strict=True))
    assert margins[1:] == sorted(margins[1:])


@pytest.mark.torture
def test_the_published_figures_of_the_toy() -> None:
    falls, margins = _check_against_the_reference(steps=20_000)
    assert falls[2:] == pytest.approx([0.2209, 0.4556, 0.9298, 1.8992], rel=1e-3)
    assert margins[1:] == pytest.approx([0.083, 0.1045, 0.1175, 0.1435, 0.195], rel=1e-3)
    assert falls[0] == pytest.approx(36.16, rel=1e-3)
