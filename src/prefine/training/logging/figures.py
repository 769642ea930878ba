"""The rows that training logs, their file, and the final figures over all pairs."""

import math
import os
from io import BufferedRandom
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from prefine.errors import DataError
from prefine.losses.facts import option_of
from prefine.losses.protocol import LossFunction, PairLogps
from prefine.records import Record
from prefine.training.objective.gradient import StepTerms
from prefine.training.objective.pair_table import PairTable

QUANTILES = (0.1, 0.5, 0.9)


class StepRow(Record):
    """One optimizer step, before its update; the means are over the step's pairs, unweighted.

    `loss`, `regularizer` (before its weight) and `objective` are weighted as in training. `margin`
    is the difference of log-ratios, whatever score the loss optimises. `fall` is the initial minus
    the current log-probability of the chosen answer, `token_fall` the same per token, in nats;
    `beyond_budget` is the share of pairs whose fall, in the regularizer's own unit, exceeds its
    delta. `tokens` counts scored tokens. `hyper_parameters` has those that change during training,
    by their paths.
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
    """All training pairs under the trained policy.

    Standard errors are over pairs, None for a single one.
    """

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
    """Steps, notes and final figures of a training.

    `resumed_from` is the step of the checkpoint that it resumed from, `stopped_by` the alarm that
    ended it before `planned_steps`. `row_fill` is needed over computed positions of its steps:
    needed is each prompt once, without padding.
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


class RowLog:
    """A JSONL file of rows; opening it cuts off the rows that a checkpoint does not know of.

    So its bytes are the same however often training was interrupted.

    Args:
        file: Made if it is missing; None writes nothing.
        rows: How many rows there were when the checkpoint was written.
        step: That checkpoint's step, for the message.

    Raises:
        DataError: The file has fewer rows.
    """

    def __init__(self, file: Path | None, *, rows: int, step: int) -> None:
        self._handle: BufferedRandom | None = None
        if file is None:
            return
        lines = file.read_bytes().splitlines(keepends=True)[:rows] if file.is_file() else []
        if len(lines) < rows:
            raise DataError(
                f"{file} has {len(lines)} rows, its newest checkpoint is of step {step} and knows "
                f"{rows}; restore the file, or delete the checkpoints to train anew"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        self._handle = file.open("r+b" if file.is_file() else "w+b")
        self._handle.truncate(sum(map(len, lines)))
        self._handle.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()

    def write(self, row: Record) -> None:
        """Append a row; it can be read at once."""
        if self._handle is not None:
            self._handle.write(row.model_dump_json().encode() + b"\n")
            self._handle.flush()

    def sync(self) -> None:
        """Make the rows survive a crash."""
        if self._handle is not None:
            os.fsync(self._handle.fileno())


def step_row(
    terms: StepTerms,
    *,
    step: int,
    epoch: int,
    learning_rate: float,
    hyper_parameters: dict[str, float],
    grad_norm: float,
) -> StepRow:
    """The row of a step from its values before the update."""
    logps, objective = terms.logps, terms.objective
    share = logps.weight / logps.weight.sum()
    total = objective.value(terms.loss, terms.regularizer)
    return StepRow(
        step=step,
        epoch=epoch,
        learning_rate=learning_rate,
        loss=float((terms.loss * share).sum()),
        regularizer=float((terms.regularizer * share).sum()),
        objective=float((total * share).sum()),
        grad_norm=grad_norm,
        pairs=len(terms.pairs),
        tokens=int(logps.chosen_tokens.sum() + logps.rejected_tokens.sum()),
        hyper_parameters=hyper_parameters,
        **_figures(logps, terms.table, objective.regularizer),
    )


def final_figures(
    logps: PairLogps, table: PairTable, regularizer: LossFunction | None
) -> FinalFigures:
    """The final figures from the trained policy's log-probabilities of all pairs."""
    errors = {
        f"{name}_se": None
        if len(values) < 2
        else float(values.double().std()) / math.sqrt(len(values))
        for name, values in _spread(logps).items()
    }
    return FinalFigures(pairs=len(logps.margin), **errors, **_figures(logps, table, regularizer))


def _spread(logps: PairLogps) -> dict[str, Float[Tensor, " B"]]:
    """The values per pair whose mean has a standard error; a margin of 0 is half accurate."""
    margin = logps.margin
    fall = logps.initial_chosen - logps.policy_chosen
    return {
        "margin": margin,
        "accuracy": (margin > 0).to(margin.dtype) + (margin == 0).to(margin.dtype) / 2,
        "fall": fall,
        "token_fall": fall / logps.chosen_tokens,
    }


def _figures(
    logps: PairLogps, table: PairTable, regularizer: LossFunction | None
) -> dict[str, Any]:
    """The figures that the rows of steps and the final ones share."""
    spread = _spread(logps)
    means = {
        "chosen_logp": logps.policy_chosen,
        "rejected_logp": logps.policy_rejected,
        "chosen_change": logps.policy_chosen - table.initial_chosen,
        "rejected_change": logps.policy_rejected - table.initial_rejected,
        **spread,
    }
    beyond_budget = None
    if regularizer is not None and (delta := option_of(regularizer, "delta")) is not None:
        fall = spread["token_fall" if option_of(regularizer, "per") == "token" else "fall"]
        beyond_budget = _mean(fall > delta)
    return {
        **{name: _mean(values) for name, values in means.items()},
        **_quantiles("fall", spread["fall"]),
        **_quantiles("token_fall", spread["token_fall"]),
        "beyond_budget": beyond_budget,
    }


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _quantiles(name: str, values: Tensor) -> dict[str, float]:
    wanted = torch.tensor(QUANTILES, dtype=torch.float64, device=values.device)
    found = values.double().quantile(wanted).tolist()
    return {
        f"{name}_q{round(100 * quantile)}": value
        for quantile, value in zip(QUANTILES, found, strict=True)
    }
