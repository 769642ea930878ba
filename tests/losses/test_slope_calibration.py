"""Slope calibration: the loss's value, other slopes, and the factor that its controller gives."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from loss_cases import bound
from pair_values import columns, gradient, pair_logps

from prefine.config.components import bind
from prefine.errors import ConfigError
from prefine.losses.controllers import SlopeBalance
from prefine.losses.pairs.dpo import dpo
from prefine.losses.pairs.simpo import simpo
from prefine.losses.pairs.slic import slic
from prefine.losses.protocol import LossFunction, PairLogps

BETA = 0.7


def _with_norms(chosen: float, rejected: float, *, seed: int = 0) -> PairLogps:
    values = pair_logps(columns(seed=seed))
    return values.changed(head_norms=torch.tensor([chosen, rejected], dtype=torch.float64))


@pytest.mark.parametrize("loss", [partial(dpo, beta=BETA), simpo, slic])
@pytest.mark.parametrize("factor", [1.7, 0.25])
def test_the_value_is_the_losses_and_each_side_has_its_factor(
    loss: LossFunction, factor: float
) -> None:
    values = pair_logps(columns())
    calibrated = partial(bound("slope_calibration", {}), loss=loss, chosen_factor=factor)
    assert torch.equal(calibrated(values), loss(values))
    (chosen, rejected), (plain_chosen, plain_rejected) = (
        gradient(one, values) for one in (calibrated, loss)
    )
    torch.testing.assert_close(chosen, factor * plain_chosen, rtol=1e-12, atol=0)
    torch.testing.assert_close(rejected, plain_rejected / factor, rtol=1e-12, atol=0)


def _slopes_of_slic(values: PairLogps) -> tuple[float, float]:
    """Mean slopes of max(0, 1 - lw + ll) - .1 lw in both sides, by the pairs' weights."""
    lw, ll = values.policy_chosen.numpy(), values.policy_rejected.numpy()
    weight, active = values.weight.numpy(), (1 - lw + ll > 0).astype(float)
    return float((weight * (active + 0.1)).sum()), float((weight * active).sum())


def test_the_factor_is_the_root_of_the_two_ratios_averaged_as_logarithms() -> None:
    controller = SlopeBalance()
    options: dict[str, Any] = {"loss": slic, "momentum": 0.75}
    average, factors = 0.0, []
    for step, norms in enumerate([(2.0, 3.0), (1.0, 5.0), (4.0, 0.5)]):
        values = _with_norms(*norms, seed=step)
        up, down = _slopes_of_slic(values)
        now = math.log(norms[1] / norms[0]) - math.log(up / down)
        average = now if step == 0 else 0.75 * average + 0.25 * now
        factors.append(math.exp(average / 2))
        given = controller.update(values, options)["chosen_factor"]
        assert given == pytest.approx(factors[-1], rel=1e-12)
    assert len(set(np.sign(np.log(factors)))) == 2


def test_dpo_has_equal_slopes_so_that_the_norms_alone_decide() -> None:
    # Mean slopes of 1; norms of 1 and 4: chosen is pulled twice as strongly, rejected half.
    given = SlopeBalance().update(_with_norms(1.0, 4.0), {"loss": dpo, "momentum": 0.98})
    assert given == {"chosen_factor": pytest.approx(2.0, rel=1e-12)}


@pytest.mark.parametrize("norms", [(0.0, 3.0), (3.0, 0.0)])
def test_a_step_without_a_ratio_leaves_the_factor(norms: tuple[float, float]) -> None:
    controller, options = SlopeBalance(), {"loss": dpo, "momentum": 0.5}
    assert controller.update(_with_norms(*norms), options) == {"chosen_factor": 1.0}
    controller.update(_with_norms(1.0, 4.0), options)
    before = controller.state_dict()
    controller.update(_with_norms(*norms), options)

    def pulls_chosen_down(logps: PairLogps) -> torch.Tensor:
        return logps.policy_chosen + logps.policy_rejected

    controller.update(_with_norms(1.0, 9.0), options | {"loss": pulls_chosen_down})
    assert controller.state_dict() == before == {"log_ratio": math.log(4.0), "steps": 1}


def test_it_needs_the_norms_in_training() -> None:
    with pytest.raises(ValueError, match="how far the output head moves"):
        SlopeBalance().update(pair_logps(columns()), {"loss": dpo, "momentum": 0.5})


@pytest.mark.parametrize("loss", ["ld_dpo", "wpo", "bmc", "bco", "beta_dpo", "slope_calibration"])
def test_losses_that_read_no_sums_are_refused(loss: str) -> None:
    with pytest.raises(ConfigError, match=f"'{loss}' reads .*, and no sums; choose another loss"):
        bind("loss", "slope_calibration", {"loss": {"name": loss}}, where="train.loss")
