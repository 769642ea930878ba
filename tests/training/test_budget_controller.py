"""The controller of the automatic budget, against golden series, Cooper's nuPI and a toy."""

import json
from pathlib import Path

import numpy as np
import pytest

from prefine.training.budget.controller import WeightController
from prefine.training.budget.feasibility import PATIENCE, Feasibility
from prefine.training.budget.settings import AutomaticBudget
from prefine.training.budget.steering import controller_of, relative_error

ERRORS = (1.0, 0.5, -0.2, 0.3, -1.0, 2.0)


@pytest.mark.parametrize(
    ("smoothing", "golden"),
    [
        (0.5, (0.2, 0.25, 0.16, 0.205, 0.0, 0.43875)),
        (0.0, (0.3, 0.25, 0.09, 0.22, 0.0, 0.8)),
    ],
)
def test_golden_series(smoothing: float, golden: tuple[float, ...]) -> None:
    controller = WeightController(0.1, proportional=2.0, integral=1.0, smoothing=smoothing)
    assert [controller.update(error) for error in ERRORS] == pytest.approx(golden, abs=1e-12)


@pytest.mark.parametrize("number", range(4))
def test_step_by_step_against_cooper(number: int) -> None:
    # Printed by benchmarks/cooper_series.py with cooper-optim 1.0.1.
    series = json.loads((Path(__file__).parent / "cooper_nupi.json").read_text())[number]
    controller = WeightController(**series["settings"])
    found = [controller.update(error) for error in series["errors"]]
    assert found == pytest.approx(series["weights"], abs=1e-12, rel=1e-12)
    assert len(set(found)) > 10


def test_a_state_continues() -> None:
    one = WeightController(0.1, proportional=2.0, smoothing=0.5)
    for error in ERRORS[:3]:
        one.update(error)
    other = WeightController(0.1, proportional=2.0, smoothing=0.5)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one.update(e) for e in ERRORS[3:]] == [other.update(e) for e in ERRORS[3:]]


@pytest.mark.parametrize("delta", [0.25, 0.5, 1.0, 2.0])
def test_toy_lands_on_the_budget_at_the_defaults(delta: float) -> None:
    """Three outcomes, linear softmax, DPO with beta .5: without a budget chosen falls by 36."""
    features = np.array([[1, 0.1], [1, -0.1], [0, 5.0]])
    beta, rate, steps = 0.5, 0.01, 20_000
    budget = AutomaticBudget(delta=delta)
    controller, slope = controller_of(budget), beta / 2
    weights, falls = np.zeros(2), np.empty(steps)
    for step in range(steps):
        logits = features @ weights
        logps = logits - np.log(np.exp(logits).sum())
        falls[step] = -np.log(3) - logps[0]
        if step % budget.every == 0:
            controller.update(relative_error(falls[step], delta, 0.0))
        mean = np.exp(logps) @ features
        chosen, rejected = features[0] - mean, features[1] - mean
        pull = beta / (1 + np.exp(beta * (logps[0] - logps[1])))
        weights += rate * (pull * (chosen - rejected) + slope * controller.weight * chosen)
    assert falls[-2000:].mean() == pytest.approx(delta, rel=0.01)
    assert falls.max() <= 1.05 * delta


def test_relative_errors() -> None:
    assert relative_error(4.0, 3.0, 0.2) == pytest.approx(1 / 3)
    assert relative_error(1.0, 0.1, 0.5) == pytest.approx(1.8)
    assert relative_error(-1.0, -2.0, 0.1) == pytest.approx(0.5)
    # Rounding of a fall that is 0 is no error.
    assert abs(relative_error(1e-9, 0.0, 1e-9)) < 1e-5


def test_infeasible_where_more_weight_does_not_lower_the_fall() -> None:
    watch = Feasibility()
    found = [
        watch.update(5.0 + 0.1 * i, 0.2, delta=3.0, weight=1.0 + i, largest=50.0)
        for i in range(2 * PATIENCE)
    ]
    assert found.index(True) == PATIENCE


@pytest.mark.parametrize(
    ("falls", "weights"),
    [
        ([5.0 - 0.1 * i for i in range(30)], [1.0 + i for i in range(30)]),  # it helps
        ([3.1] * 30, [1.0 + i for i in range(30)]),  # within the standard error
        ([5.0] * 30, [0.1 + 0.01 * i for i in range(30)]),  # hardly any weight yet
        ([5.0] * 30, [2.0] * 30),  # the weight stands still
    ],
)
def test_feasible(falls: list[float], weights: list[float]) -> None:
    watch = Feasibility()
    assert not any(
        watch.update(fall, 0.2, delta=3.0, weight=weight, largest=50.0)
        for fall, weight in zip(falls, weights, strict=True)
    )


def test_infeasible_at_the_largest_weight() -> None:
    watch = Feasibility()
    found = [watch.update(5.0, 0.2, delta=3.0, weight=20.0, largest=20.0) for _ in range(20)]
    assert sum(found) == 2
