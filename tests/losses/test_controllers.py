"""Controllers of hyper-parameters, against the running figures of the reference."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pair_values import columns, pair_logps

import reference
from prefine.losses.controllers import MarginAverage, RunningReward
from prefine.losses.pairs.bco import bco
from prefine.losses.pairs.beta_dpo import beta_dpo
from prefine.losses.protocol import Controller
from reference import Columns

STEPS = [columns(seed=seed, pairs=pairs) for seed, pairs in enumerate((5, 1, 32, 8))]
CONTROLLERS: list[tuple[type[Controller], dict[str, Any]]] = [
    (RunningReward, {"beta": 0.3}),
    (MarginAverage, {"momentum": 0.7, "beta": 0.1}),
]
controllers = pytest.mark.parametrize(
    ("controller", "options"), CONTROLLERS, ids=["bco", "beta_dpo"]
)


def _ratios(values: Columns) -> tuple[reference.Array, reference.Array]:
    return values.policy_chosen - values.ref_chosen, values.policy_rejected - values.ref_rejected


def _updates(
    controller: Controller, options: dict[str, Any], steps: Sequence[Columns]
) -> list[dict[str, float]]:
    return [controller.update(pair_logps(values), options) for values in steps]


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_reward_of_bco_is_the_mean_of_all_answers_so_far(beta: float) -> None:
    found = [given["delta"] for given in _updates(RunningReward(), {"beta": beta}, STEPS)]
    expected = reference.running_mean([beta * np.concatenate(_ratios(values)) for values in STEPS])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(set(np.sign(expected))) > 1 or len(set(expected)) == len(STEPS)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_margins_of_beta_dpo_are_averaged_with_momentum(momentum: float) -> None:
    found = _updates(MarginAverage(), {"momentum": momentum}, STEPS)
    expected = reference.beta_dpo_ema([np.subtract(*_ratios(values)) for values in STEPS], momentum)
    np.testing.assert_allclose(
        [(given["margin_mean"], given["margin_std"]) for given in found], expected, rtol=1e-12
    )
    assert [given["draw"] for given in found] == [1, 2, 3, 4]


@controllers
def test_a_saved_state_goes_on_as_if_nothing_had_happened(
    controller: type[Controller], options: dict[str, Any]
) -> None:
    whole = _updates(controller(), options, STEPS)
    first, second = controller(), controller()
    _updates(first, options, STEPS[:2])
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    assert _updates(second, options, STEPS[2:]) == whole[2:]
    # Loading forgets what was there.
    _updates(first, options, STEPS)
    first.load_state_dict(state)
    assert _updates(first, options, STEPS[2:]) == whole[2:]
    assert _updates(controller(), options, STEPS[2:]) != whole[2:]


@controllers
def test_a_controller_gives_what_it_says_and_keeps_no_tensor(
    controller: type[Controller], options: dict[str, Any]
) -> None:
    one = controller()
    given = one.update(pair_logps(STEPS[0], dtype=torch.float32), options)
    assert set(given) == set(controller.gives)
    assert all(
        type(value) in (int, float) for value in [*given.values(), *one.state_dict().values()]
    )


def test_sums_of_many_steps_do_not_drift_in_float32() -> None:
    controller, seen = RunningReward(), []
    for seed in range(300):
        values = columns(seed=seed, pairs=4)
        seen.append(0.3 * np.concatenate(_ratios(values)))
        given = controller.update(pair_logps(values, dtype=torch.float32), {"beta": 0.3})
    # Each log-ratio is a difference of float32 numbers of up to some 200 nats.
    assert given["delta"] == pytest.approx(reference.running_mean(seen)[-1], abs=0.3 * 200 * 2**-24)


def test_the_losses_declare_their_controllers() -> None:
    for loss, controller in ((bco, RunningReward), (beta_dpo, MarginAverage)):
        facts = vars(loss)
        assert facts["controller"] is controller
        assert facts["controlled"] == controller.gives
        assert facts["kind"] == "coupled"
