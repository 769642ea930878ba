"""Hyper-parameters that move: by the step, and by what the step saw."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from step_gradients import CASES, EXAMPLES, engine

from losses.pair_values import some_pairs
from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses import bco, dpo, mixture
from prefine.losses.controllers import RunningReward
from prefine.losses.facts import option_of, parts_of
from prefine.losses.protocol import PairLogps, declare
from prefine.regularizers import budget
from prefine.schedules import Schedule, last
from prefine.training.objective.objective import HyperparameterController


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"schedule": "constant", "start": 0.3}, [0.3] * 5),
        ({"schedule": "linear", "start": 1.0, "end": 3.0}, [1.0, 1.5, 2.0, 2.5, 3.0]),
        ({"schedule": "linear", "start": 1.0, "end": 3.0, "until": 0.5}, [1.0, 2.0, 3.0, 3.0, 3.0]),
        (
            {"schedule": "cosine", "start": 2.0, "end": 0.0},
            [2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5, 0.0],
        ),
    ],
)
def test_schedules_start_and_end_where_they_say(
    written: dict[str, Any], expected: list[float]
) -> None:
    schedule = Schedule.model_validate(written)
    found = [schedule.at(step, 5) for step in range(5)]
    assert found == pytest.approx(expected, abs=1e-15)
    assert (found[0], found[-1]) == schedule.ends
    assert last(schedule) == found[-1]
    assert schedule.at(0, 1) == schedule.ends[0]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_schedule_stays_between_its_ends(shape: Any) -> None:
    values = [
        Schedule(schedule=shape, start=0.1, end=0.7, until=0.8).at(step, 1000)
        for step in range(1000)
    ]
    assert min(values) == 0.1
    assert max(values) == pytest.approx(0.7, abs=1e-15)
    assert np.all(np.diff(values) >= -1e-15)


@pytest.mark.parametrize(
    "written",
    [
        {"schedule": "linear", "start": 1.0},
        {"schedule": "constant", "start": 1.0, "end": 2.0},
        {"schedule": "wsd", "start": 1.0, "end": 2.0},
        {"schedule": "linear", "start": 1.0, "end": float("inf")},
        {"schedule": "linear", "start": "1", "end": 2.0},
        {"schedule": "linear", "start": 1.0, "end": 2.0, "until": 0.0},
        {"schedule": "linear", "start": 1.0, "end": 2.0, "steps": 3},
    ],
)
def test_what_is_no_schedule_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(written)
    with pytest.raises(ConfigError, match=r"train\.loss\.beta"):
        bind("loss", "dpo", {"beta": written}, where="train.loss")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (
            "dpo",
            {"beta": {"schedule": "linear", "start": 0.1, "end": 0.0}},
            "beta: Input should be greater than 0",
        ),
        (
            "dpo",
            {"beta": {"schedule": "linear", "start": -0.1, "end": 0.1}},
            "beta: Input should be greater than 0",
        ),
        (
            "ipo",
            {"average": {"schedule": "linear", "start": 0, "end": 1}},
            "average: has no schedule",
        ),
        (
            "beta_dpo",
            {"seed": {"schedule": "linear", "start": 0, "end": 1}},
            "seed: has no schedule",
        ),
        ("bco", {"delta": 0.1}, "delta: unknown option of loss 'bco'"),
        ("mixture", {"losses": [{"name": "dpo"}]}, "weights: Field required"),
        (
            "mixture",
            {"losses": [{"name": "dpo"}], "weights": [1, 2]},
            "losses has 1 parts, weights has 2",
        ),
        ("mixture", {"losses": [], "weights": []}, "losses: Tuple should have at least 1"),
        (
            "mixture",
            {"losses": [{"name": "dpa"}], "weights": [1]},
            "losses.0.name: unknown loss 'dpa'; did you mean",
        ),
        (
            "mixture",
            {"losses": [{"name": "dpo", "beta": 0}], "weights": [1]},
            "losses.0.beta: Input should be greater",
        ),
        (
            "mixture",
            {"losses": [3], "weights": [1]},
            "losses.0: expected a loss such as {name: …} (got 3)",
        ),
        (
            "mixture",
            {"losses": [{"name": "dpo"}], "weights": [-1]},
            "weights.0: Input should be greater than or equal",
        ),
        (
            "dpo",
            {"beta": {"schedule": "linear", "start": 1, "end": 2, "unti": 1}},
            "beta.unti: unknown key; did you mean",
        ),
        ("bmc", {"loss": {"name": "ld_dpo"}}, "'ld_dpo' reads no weighted sums"),
        ("bmc", {"loss": {"name": "beta_dpo"}}, "'beta_dpo' reads no weighted sums"),
        ("wpo", {"loss": {"name": "aot"}}, "this loss sorts the pairs of a step"),
    ],
)
def test_options_that_cannot_be_are_named(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind("loss", name, options, where="train.loss")
    assert says in str(caught.value)
    assert str(caught.value).startswith("train.loss")


def test_every_number_within_a_mixture_can_move() -> None:
    half = {"schedule": "linear", "start": 0.0, "end": 1.0}
    options = {
        "losses": [
            {"name": "dpo", "beta": {"schedule": "linear", "start": 0.1, "end": 0.3}},
            {"name": "bco"},
        ],
        "weights": [half, 0.5],
    }
    loss = bind("loss", "mixture", options, where="train.loss")
    steering = HyperparameterController(
        loss, partial(budget, delta=2.0), Schedule.model_validate(half), steps=5
    )
    objective = steering.at_step(2)
    first, second = option_of(objective.loss, "losses")
    assert option_of(first, "beta") == pytest.approx(0.2)
    assert option_of(second, "beta") == 0.1
    assert option_of(objective.loss, "weights") == (0.5, 0.5)
    assert steering.current_values(objective) == {
        "regularizer_weight": 0.5,
        "loss.weights.0": 0.5,
        "loss.losses.0.beta": pytest.approx(0.2),
        "loss.losses.1.delta": 0.0,
    }


def _values(chosen: float, rejected: float) -> PairLogps:
    one = torch.ones(2, dtype=torch.float64)
    zero = torch.zeros_like(one)
    return PairLogps(chosen * one, rejected * one, zero, zero, zero, one, one, one, one, 2, 2)


def test_a_controller_sees_the_step_before_the_loss_does() -> None:
    loss = partial(
        mixture,
        losses=(dpo, partial(bco, beta=Schedule(schedule="linear", start=1.0, end=0.5))),
        weights=(1.0, 1.0),
    )
    steering = HyperparameterController(loss, steps=2)

    def delta(step: int, values: PairLogps) -> float:
        settled = steering.control(steering.at_step(step), values)
        return float(option_of(option_of(settled.loss, "losses")[1], "delta"))

    assert delta(0, _values(3.0, -1.0)) == pytest.approx(1.0)
    state = steering.state_dict()
    assert delta(1, _values(-2.0, -6.0)) == pytest.approx((1.0 + 0.5 * -4.0) / 2)
    again = HyperparameterController(loss, steps=2)
    again.load_state_dict(state)
    settled = again.control(again.at_step(1), _values(-2.0, -6.0))
    assert again.current_values(settled)["loss.losses.1.delta"] == pytest.approx(-0.5)


def test_the_filter_of_beta_dpo_draws_anew_at_every_step_and_for_every_seed() -> None:
    def kept(seed: int, step: int) -> list[bool]:
        loss = bind("loss", "beta_dpo", {"rho": 0.5, "seed": seed}, where="train.loss")
        steering = HyperparameterController(loss, steps=9)
        logps = some_pairs(_values(0.0, 0.0), torch.zeros(40, dtype=torch.long))
        for _ in range(step + 1):
            objective = steering.control(steering.at_step(0), logps)
        return (objective.loss(logps) > 0).tolist()

    assert sum(kept(0, 0)) == 20
    assert kept(0, 0) == kept(0, 0)
    assert kept(0, 0) != kept(0, 1)
    assert kept(0, 0) != kept(1, 0)


def test_the_log_of_a_step_has_the_objective_that_was_minimised() -> None:
    terms, _ = engine(CASES["bco"], 2)
    assert option_of(terms.objective.loss, "delta") != 0
    assert torch.equal(terms.objective.loss(terms.logps), terms.loss)
    assert len(terms.loss) == len(EXAMPLES)


def test_an_option_may_be_a_function_that_is_no_loss() -> None:
    def linked(
        logps: PairLogps, *, link: Any = torch.nn.functional.logsigmoid, scale: Any = 2.0
    ) -> torch.Tensor:
        return -scale * link(logps.margin)

    steering = HyperparameterController(linked, steps=3)
    objective = steering.at_step(1)
    assert [path for path, _ in parts_of(linked)] == [""]
    assert option_of(objective.loss, "link") is torch.nn.functional.logsigmoid
    values = _values(3.0, -1.0)
    assert torch.equal(objective.loss(values), linked(values))


@pytest.mark.parametrize(
    "facts", [{"controller": RunningReward}, {"needs": frozenset({"mismatched"})}]
)
def test_what_reads_the_whole_step_cannot_be_declared_local(facts: Any) -> None:
    with pytest.raises(ValueError, match="reads the whole step"):
        declare(kind="local", **facts)
    declare(kind="coupled", **facts)
