"""What training reports: the row of a step, and the final figures over all pairs."""

import math
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.losses.facts import option_of
from prefine.losses.protocol import LossFunction, PairLogps
from prefine.records import Record
from prefine.training.objective.gradient import StepTerms
from prefine.training.objective.pair_table import PairTable

QUANTILES = (0.1, 0.5, 0.9)


class StepRow(Record):
    """One optimizer step, as it was before its update; the means are over the step's pairs, unweighted.

    `loss`, `regularizer` (before its weight) and `objective` are weighted as in training. `margin`
    is the difference of log-ratios, whatever score the loss optimises. `fall` is the initial minus
    the current log-probability of the chosen answer, `token_fall` the same per token, in nats;
    `beyond_budget` is the share of pairs whose fall, in the regularizer's own unit, exceeds its
    delta. `tokens` counts scored tokens. `hyper_parameters` are those that move during training, by
    their paths.
    """

    step: int
    epoch: int
    learning_rate: float
    loss: float
    regularizer: float
    objective: float
    chosen_logp: float
    rejected_logp: float
    chosen_change: float
    rejected_change: float
    margin: float
    accuracy: float
    fall: float
    fall_q10: float
    fall_q50: float
    fall_q90: float
    token_fall: float
    token_fall_q10: float
    token_fall_q50: float
    token_fall_q90: float
    beyond_budget: float | None
    grad_norm: float
    pairs: int
    tokens: int
    hyper_parameters: dict[str, float] = Field(default_factory=dict)


class FinalFigures(Record):
    """All training pairs under the trained policy; standard errors are over pairs, None for a single one."""

    pairs: int
    chosen_logp: float
    rejected_logp: float
    chosen_change: float
    rejected_change: float
    margin: float
    margin_se: float | None
    accuracy: float
    accuracy_se: float | None
    fall: float
    fall_se: float | None
    fall_q10: float
    fall_q50: float
    fall_q90: float
    token_fall: float
    token_fall_se: float | None
    token_fall_q10: float
    token_fall_q50: float
    token_fall_q90: float
    beyond_budget: float | None


class TrainSummary(Record):
    """What a training did. `resumed_from` is the step of the checkpoint it went on from.

    `stopped_by` is the alarm that ended it before `planned_steps`. `row_fill` is the share of the
    positions that the layers computed in its steps that were needed: each prompt once, and no
    padding.
    """

    steps: int
    planned_steps: int
    steps_per_epoch: int
    pairs: int
    resumed_from: int | None
    reference_reused: bool
    stopped_by: str | None = None
    row_fill: float | None = None
    notes: tuple[str, ...]
    final: FinalFigures


def accuracies(margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 where the margin is positive, .5 where it is 0, else 0."""
    return (margin > 0).to(margin.dtype) + (margin == 0).to(margin.dtype) / 2


def step_row(
    terms: StepTerms,
    *,
    step: int,
    epoch: int,
    learning_rate: float,
    hyper_parameters: dict[str, float],
    grad_norm: float,
) -> StepRow:
    """The row of a step from what it saw before its update."""
    share = terms.logps.weight / terms.logps.weight.sum()
    objective = terms.objective.value(terms.loss, terms.regularizer)
    return StepRow(
        step=step,
        epoch=epoch,
        learning_rate=learning_rate,
        loss=float((terms.loss * share).sum()),
        regularizer=float((terms.regularizer * share).sum()),
        objective=float((objective * share).sum()),
        grad_norm=grad_norm,
        pairs=len(terms.pairs),
        tokens=int(terms.logps.chosen_tokens.sum() + terms.logps.rejected_tokens.sum()),
        hyper_parameters=hyper_parameters,
        **_describe(terms.logps, terms.table, terms.objective.regularizer),
    )


def final_figures(
    logps: PairLogps, table: PairTable, regularizer: LossFunction | None
) -> FinalFigures:
    """The final figures from the trained policy's values on all pairs."""
    fall = logps.initial_chosen - logps.policy_chosen
    return FinalFigures(
        pairs=len(logps.margin),
        margin_se=_standard_error(logps.margin),
        accuracy_se=_standard_error(accuracies(logps.margin)),
        fall_se=_standard_error(fall),
        token_fall_se=_standard_error(fall / logps.chosen_tokens),
        **_describe(logps, table, regularizer),
    )


def _describe(
    logps: PairLogps, table: PairTable, regularizer: LossFunction | None
) -> dict[str, Any]:
    fall = logps.initial_chosen - logps.policy_chosen
    token_fall = fall / logps.chosen_tokens
    delta = None if regularizer is None else option_of(regularizer, "delta")
    beyond = None
    if regularizer is not None and delta is not None:
        unit = token_fall if option_of(regularizer, "per") == "token" else fall
        beyond = _mean(unit > delta)
    return {
        "chosen_logp": _mean(logps.policy_chosen),
        "rejected_logp": _mean(logps.policy_rejected),
        "chosen_change": _mean(logps.policy_chosen - table.initial_chosen),
        "rejected_change": _mean(logps.policy_rejected - table.initial_rejected),
        "margin": _mean(logps.margin),
        "accuracy": _mean(accuracies(logps.margin)),
        "fall": _mean(fall),
        **_quantiles("fall", fall),
        "token_fall": _mean(token_fall),
        **_quantiles("token_fall", token_fall),
        "beyond_budget": beyond,
    }


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _quantiles(name: str, values: Tensor) -> dict[str, float]:
    found = (
        values.double()
        .quantile(torch.tensor(QUANTILES, dtype=torch.float64, device=values.device))
        .tolist()
    )
    return {f"{name}_q{round(100 * q)}": value for q, value in zip(QUANTILES, found, strict=True)}


def _standard_error(values: Tensor) -> float | None:
    return None if len(values) < 2 else float(values.double().std()) / math.sqrt(len(values))
