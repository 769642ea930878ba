"""Evaluation during training: held-out pairs under the policy of the moment, and stopping on what they say."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from prefine.config.sections import EarlyStopConfig, TrainConfig
from prefine.metrics.rewards.likelihood_indicators import IndicatorReading
from prefine.training.batches.packing import PackedBatch
from prefine.training.distributed.processes import own_pairs
from prefine.training.early_stop import Alarm, EarlyStop
from prefine.training.forward.passes import Forward
from prefine.training.forward.token_values import PairTokens
from prefine.training.items import TokenizedPair
from prefine.training.logging.figures import FinalFigures, final_figures
from prefine.training.logging.row_log import RowLog
from prefine.training.memory import retry_smaller_batches
from prefine.training.objective.gradient import StepTerms, evaluate
from prefine.training.objective.objective import Objective
from prefine.training.objective.pair_table import PairTable

EVALUATION_LOG_NAME = "eval_log.jsonl"
TOP_TOKENS = 10
"""How many of the likeliest tokens the indicators look at (k). Ours."""


class EvaluationRow(FinalFigures):
    """The held-out pairs after `step` updates; standard errors are over pairs, None for a single one.

    `loss`, `regularizer` and `objective` are weighted as in training, all pairs taken as one step,
    with the hyper-parameters of the last update. The indicators are means over the tokens of the
    chosen answers, k = 10: `top_mass` the probability of the k likeliest tokens, `top_entropy`
    minus the sum of p log p over them, `top_entropy_renormalised` their entropy among themselves,
    `entropy` that over the whole vocabulary, in nats.
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
    entropy: float
    entropy_se: float | None


class _Mean(NamedTuple):
    """A mean with its standard error, None if there is only one value."""

    value: float
    error: float | None


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs that are not trained on, and what the initial policy and the reference said of them.

    Args:
        forward: The passes through the policy that is trained.
        examples: The pairs.
        table: What is known of them.
        mismatched: Their prompts with other pairs' completions, if a loss reads them.
    """

    forward: Forward
    examples: Sequence[TokenizedPair]
    table: PairTable
    mismatched: Sequence[TokenizedPair] = ()

    def evaluate(self, objective: Objective, step: int) -> EvaluationRow:
        """The row of this moment; weights and random state stay as they are.

        Args:
            objective: With the hyper-parameters of the moment.
            step: Updates made so far.

        Raises:
            NumericsError: A loss is not finite.
        """
        device = self.forward.device

        def attempt() -> tuple[StepTerms, PairTokens]:
            rows, mismatched = (
                self.forward.cut(some, own_pairs(some, range(len(some))))
                for some in (self.examples, self.mismatched)
            )
            # A loss may draw random numbers, which training would then lack.
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                return evaluate(
                    self.forward,
                    rows,
                    self.table,
                    objective,
                    examples=self.examples,
                    step=step,
                    top_k=TOP_TOKENS,
                    mismatched=mismatched,
                )

        def all_rows() -> list[PackedBatch]:
            return [
                rows
                for some in (self.examples, self.mismatched)
                for rows in self.forward.cut(some, range(len(some)))
            ]

        terms, tokens = retry_smaller_batches(attempt, self.forward, all_rows, self.examples)
        weight = terms.logps.weight
        loss = _ratio(terms.loss * weight, weight)
        return EvaluationRow(
            **final_figures(terms.logps, terms.table, objective.regularizer).model_dump(),
            step=step,
            loss=loss.value,
            loss_se=loss.error,
            regularizer=_ratio(terms.regularizer * weight, weight).value,
            objective=_ratio(objective.value(terms.loss, terms.regularizer) * weight, weight).value,
            **_indicators(tokens, terms.logps.chosen_tokens),
        )


class Evaluations:
    """The evaluations of a training: before the first update, every so many, and after the last.

    The rows go to a file that is the same bytes however often training was interrupted. Without
    held-out pairs nothing ever happens.

    Args:
        held_out: What is evaluated; None if nothing is.
        config: When, and what stops training.
        file: Where the rows go; None keeps none.
        steps: Updates of the whole training.
        start: Updates made so far.
        state: What `state_dict` gave when so many were made.
        on_row: Called with every new row.

    Raises:
        DataError: The file lacks rows that were there.
    """

    def __init__(
        self,
        held_out: HeldOutPairs | None,
        config: TrainConfig,
        *,
        file: Path | None,
        steps: int,
        start: int,
        state: Mapping[str, Mapping[str, float]],
        on_row: Callable[[EvaluationRow], None],
    ) -> None:
        self._held_out, self._every, self._steps, self._on_row = (
            held_out,
            config.evaluate_every,
            steps,
            on_row,
        )
        self._stop = None if config.early_stop is None else _early_stop(config.early_stop)
        # What comes before the first update is made anew if none was made.
        if self._stop is not None and start:
            self._stop.load_state_dict(state.get("early_stop", {}))
        self._log = RowLog(None if held_out is None else file, rows=self._rows(start), step=start)
        self._over = start == steps

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def after(self, step: int, objective: Objective) -> None:
        """Evaluate, if it is time after update number `step`.

        Raises:
            NumericsError: A loss is not finite, or what early stopping reads.
        """
        self._over = step == self._steps
        if self._held_out is None or not (self._due(step) or self._over):
            return
        row = self._held_out.evaluate(objective, step)
        self._log.write(row)
        self._on_row(row)
        if self._stop is not None:
            self._stop.update(
                IndicatorReading(row.top_entropy_renormalised, row.top_mass, row.margin)
            )

    @property
    def stopped_by(self) -> Alarm | None:
        """The alarm that ends training before its last update."""
        return None if self._stop is None or self._over else self._stop.stopped_by

    def state_dict(self) -> dict[str, dict[str, float]]:
        """For a checkpoint; the rows so far then survive a crash."""
        self._log.sync()
        return {} if self._stop is None else {"early_stop": self._stop.state_dict()}

    def _due(self, step: int) -> bool:
        return self._every is not None and step % self._every == 0

    def _rows(self, start: int) -> int:
        """How many evaluations lie behind when `start` updates have been made."""
        if self._every is None or not start:
            return 0
        return 1 + start // self._every + int(start == self._steps and not self._due(start))


def _early_stop(settings: EarlyStopConfig) -> EarlyStop:
    return EarlyStop(
        settings.alarms,
        patience=settings.patience,
        keep=settings.keep,
        entropy_fall=settings.entropy_fall,
        mass_fall=settings.mass_fall,
    )


def _indicators(tokens: PairTokens, sizes: Float[Tensor, " n"]) -> dict[str, float | None]:
    """Means over the tokens of the chosen answers, with their errors."""
    mass, raw, entropy = tokens.values.top_mass, tokens.values.top_entropy, tokens.values.entropy
    assert mass is not None and raw is not None and entropy is not None, "the spread was wanted"
    # With q = p / mass: -sum q log q = (-sum p log p) / mass + log mass.
    renormalised = raw / mass + mass.log()
    found: dict[str, float | None] = {}
    for name, column in (
        ("top_mass", mass),
        ("top_entropy", raw),
        ("top_entropy_renormalised", renormalised),
        ("entropy", entropy),
    ):
        found[name], found[f"{name}_se"] = _ratio(tokens.sums(column)[:, 0], sizes)
    return found


def _ratio(sums: Float[Tensor, " n"], sizes: Float[Tensor, " n"]) -> _Mean:
    """The sum of sums over the sum of sizes; its error is that of a ratio of means, to first order."""
    top, bottom = sums.double(), sizes.double()
    value = top.sum() / bottom.sum()
    if len(top) < 2:
        return _Mean(float(value), None)
    error = (top - value * bottom).std() * math.sqrt(len(top)) / bottom.sum()
    return _Mean(float(value), float(error))
