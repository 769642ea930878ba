"""The rows that training logs, whatever its items are, and their file."""

import json
import math
import os
from collections.abc import Mapping
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from pydantic import Field, SerializeAsAny
from torch import Tensor

from prefine.atomic import write_text
from prefine.errors import DataError
from prefine.losses.kinds import MixedLogps, StepLogps
from prefine.losses.protocol import LossFunction
from prefine.records import SCHEMA_VERSION, Record

if TYPE_CHECKING:
    from prefine.training.objective.gradient import StepTerms
    from prefine.training.objective.item_table import ItemTable

LOG_NAME = "train_log.jsonl"
EVALUATION_LOG_NAME = "eval_log.jsonl"
BUDGET_LOG_NAME = "budget_log.jsonl"
CLIMB_LOG_NAME = "climb_log.jsonl"
FINAL_NAME = "train_final.json"

QUANTILES = (0.1, 0.5, 0.9)


class LoggedRow(Protocol):
    """A row of a log; each relation between completions has its own class for each log."""

    @property
    def step(self) -> int:
        """Updates made so far."""
        ...

    @property
    def loss(self) -> float:
        """Mean of the objective over the items."""
        ...

    @property
    def headline(self) -> str:
        """The row in a few words."""
        ...

    def model_dump(self, *, exclude: set[str] | None = None) -> dict[str, Any]:
        """The row's columns."""
        ...

    def model_dump_json(self) -> str:
        """The row as a line."""
        ...


class LoggedStep(Record):
    """The columns of one optimizer step that are those of every relation.

    All values are from before the update. `loss`, `regularizer` (before its weight) and `objective`
    are weighted as in training. `tokens` counts scored tokens. `hyper_parameters` has those that
    change during training, by their paths.
    """

    step: int
    epoch: int
    learning_rate: float
    loss: float
    regularizer: float
    objective: float
    grad_norm: float
    tokens: int
    hyper_parameters: dict[str, float] = Field(default_factory=dict)


class EvaluatedItems(Record):
    """The columns of an evaluation after `step` updates that are those of every relation.

    Standard errors are over prompts, None for a single one. `loss`, `regularizer` and `objective`
    are weighted as in training, all items taken as one step, with the hyper-parameters of the last
    update. The indicators are means over the tokens of the answers that training should keep
    likely, k = 10: `top_mass` the probability of the k likeliest tokens, `top_entropy` minus the
    sum of p log p over them, `top_entropy_renormalised` their entropy among themselves, `entropy`
    that over the whole vocabulary, in nats; `top_entropy_bits` is the one among themselves in bits,
    as arXiv:2410.11677 quotes it. `collapse`, `diffusion` and `turn` say which alarms of likelihood
    over-optimisation are on, read from the evaluations so far (`EarlyStop`).
    """

    step: int
    loss: float
    loss_se: float | None
    regularizer: float
    objective: float
    top_mass: float
    top_mass_se: float | None
    top_entropy: float
    top_entropy_se: float | None
    top_entropy_renormalised: float
    top_entropy_renormalised_se: float | None
    top_entropy_bits: float
    top_entropy_bits_se: float | None
    entropy: float
    entropy_se: float | None
    collapse: bool = False
    diffusion: bool = False
    turn: bool = False


class Described(NamedTuple):
    """Final figures in words: what the items are, and each figure's words, name and unit."""

    items: str
    full: str
    figures: tuple[tuple[str, str, str], ...]


class FinalRow(Record):
    """Base of the figures at the end of a training."""

    described: ClassVar[Described]

    @property
    def headline(self) -> str:
        """The figures in a few words, in place of those of the last step; perhaps none."""
        return ""


class TrainSummary(Record):
    """Steps, notes and final figures of a training on so many `items`.

    `resumed_from` is the step of the checkpoint that it resumed from, `stopped_by` the alarm that
    ended it before `planned_steps`. `row_fill` is needed over computed positions of its steps:
    needed is each prompt once, without padding.
    """

    steps: int
    planned_steps: int
    steps_per_epoch: int
    items: int
    resumed_from: int | None
    reference_reused: bool
    stopped_by: str | None = None
    row_fill: float | None = None
    notes: tuple[str, ...]
    final: SerializeAsAny[FinalRow]

    def write(self, file: Path) -> None:
        """Write what is the same however often training was interrupted, as JSON."""
        content = {
            "schema_version": SCHEMA_VERSION,
            **self.model_dump(include={"steps", "stopped_by", "row_fill", "final"}),
        }
        write_text(file, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
    terms: "StepTerms",
    *,
    step: int,
    epoch: int,
    learning_rate: float,
    hyper_parameters: dict[str, float],
    grad_norm: float,
) -> Any:
    """The row of a step from its values before the update."""
    logps, objective, table = terms.logps, terms.objective, terms.table
    share = logps.weight / logps.weight.sum()
    total = objective.value(terms.loss, terms.regularizer)
    figures = table.relation.figures(logps, table, objective.regularizer)
    add_losses(figures, logps, terms.loss)
    return table.relation.step_row.model_validate(
        {
            "step": step,
            "epoch": epoch,
            "learning_rate": learning_rate,
            "loss": float((terms.loss * share).sum()),
            "regularizer": float((terms.regularizer * share).sum()),
            "objective": float((total * share).sum()),
            "grad_norm": grad_norm,
            table.relation.name: len(terms.items),
            "tokens": int(table.tokens.sum()),
            "hyper_parameters": hyper_parameters,
            **figures,
        }
    )


def final_figures(
    logps: StepLogps, table: "ItemTable", regularizer: LossFunction | None
) -> dict[str, Any]:
    """The final figures from the trained policy's log-probabilities of all items."""
    relation = table.relation
    errors = relation.errors(logps, table)
    figures = relation.figures(logps, table, regularizer)
    for kind, row in figures.get("kinds", {}).items():
        row |= errors["kinds"][kind]
    return {relation.name: len(table.weight), **errors, **figures}


def add_losses(row: dict[str, Any], logps: StepLogps, loss: Float[Tensor, " B"]) -> None:
    """Add the mean loss of each kind to a row of items of several kinds."""
    if isinstance(logps, MixedLogps):
        for kind, places in logps.places.items():
            weight = logps.weight[places]
            row["kinds"][kind]["loss"] = float((loss[places] * weight / weight.sum()).sum())


def standard_errors(
    columns: Mapping[str, Float[Tensor, " n"]], prompts: Int[Tensor, " n"]
) -> dict[str, float | None]:
    """The standard error over prompts of the mean of each column, as `NAME_se`."""
    return {f"{name}_se": error_of((values, prompts)) for name, values in columns.items()}


def error_of(*samples: tuple[Float[Tensor, " n"], Int[Tensor, " n"]]) -> float | None:
    """The standard error of the difference between the first sample's mean and the others' means.

    Values of one prompt may depend on each other, so what varies is each prompt's sum around the
    means: with one value a prompt this is sd / sqrt(n) (ddof 1).

    Args:
        samples: Values and the number of the prompt of each.

    Returns: None where a sample is of fewer than two prompts.
    Source: the cluster-robust variance of Liang and Zeger (1986), with the factor G / (G - 1).
    """
    found = []
    for number, (values, prompts) in enumerate(samples):
        count = len(torch.unique(prompts))
        if count < 2:
            return None
        around = values.double() - values.double().mean()
        scale = math.sqrt(count / (count - 1)) / len(values)
        found.append(around * (-scale if number else scale))
    prompts = torch.cat([prompts for _, prompts in samples])
    sums = torch.zeros(int(prompts.max()) + 1, dtype=torch.float64, device=prompts.device)
    return float(sums.index_add_(0, prompts, torch.cat(found)).norm())


def mean(values: Tensor) -> float:
    """The mean, added up in float64."""
    return float(values.double().mean())


def quantiles(name: str, values: Tensor) -> dict[str, float]:
    """The quantiles of a column, as `NAME_q10` and so on."""
    wanted = torch.tensor(QUANTILES, dtype=torch.float64, device=values.device)
    found = values.double().quantile(wanted).tolist()
    return {
        f"{name}_q{round(100 * quantile)}": value
        for quantile, value in zip(QUANTILES, found, strict=True)
    }
