"""Slope calibration: rebalance how strongly a loss moves the two answers of a pair."""

from typing import Annotated

from pydantic import Field

from prefine.losses.controllers import SlopeBalance
from prefine.losses.facts import check_reads_sums
from prefine.losses.pairs.dpo import dpo
from prefine.losses.protocol import Loss, PairLogps, PerPair, declare


def _check_loss(*, loss: Loss) -> None:
    check_reads_sums(loss, beside={"prompt"})


@declare(
    family="guarded",
    kind="coupled",
    needs={"head_norms"},
    controller=SlopeBalance,
    check=_check_loss,
)
def slope_calibration(
    logps: PairLogps,
    *,
    loss: Loss = dpo,
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.98,
    chosen_factor: float = 1.0,
) -> PerPair:
    """loss(lw, ll), with its slope in lw times a and that in ll times 1 / a.

    a = (r* / r)^(1/2), with r the slope in chosen over the slope in rejected, in the mean over the
    step, and r* = ‖s_l‖ / ‖s_w‖, where s_w and s_l are the gradients of the mean log-probabilities
    of chosen and rejected in the output head's weight. Then chosen does not fall while rejected
    does not rise, to first order, however alike the two are. log(r* / r) is a moving average.

    Args:
        logps: What the loss needs.
        loss: The loss whose slopes are rebalanced; it reads sums. Default: ours.
        momentum: Of the moving average. Default: paper.
        chosen_factor: a; from the controller in training, 1 elsewhere. Default: ours.
    Returns: Loss per pair [B].
    Source: arXiv:2604.18239 (reward calibration).
    Deviation: a step in which the loss pulls chosen down or rejected up does not move the average.
        Gradients in the head's weight also where that is not trained.
    """

    def scaled(values: PerPair, factor: float) -> PerPair:
        still = values.detach()
        return still + factor * (values - still)

    return loss(
        logps.changed(
            policy_chosen=scaled(logps.policy_chosen, chosen_factor),
            policy_rejected=scaled(logps.policy_rejected, 1 / chosen_factor),
        )
    )
