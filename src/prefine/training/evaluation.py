"""Evaluate held-out items during training."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.config.training import EarlyStopConfig, TrainConfig
from prefine.training.forward.token_values import ItemTokens
from prefine.training.logging.figures import RowLog, add_losses, error_of, final_figures
from prefine.training.objective.gradient import StepTerms, evaluate
from prefine.training.objective.item_table import ItemTable
from prefine.training.objective.objective import Objective
from prefine.training.reference.prepare import PreparedItems

if TYPE_CHECKING:
    from prefine.training.early_stop import Alarm

TOP_TOKENS = 10
"""The number of likeliest tokens that the indicators look at (k). Ours."""


class Evaluations:
    """The evaluations of a training: before the first update, every so many, and after the last.

    The rows go to a file whose bytes are the same however often training was interrupted.

    Args:
        held_out: The items; None evaluates nothing.
        config: When to evaluate, and what stops training.
        watched: The items whose readings stop training; the same, unless a half of the held-out
            ones must decide nothing.
        file: Where the rows go; None keeps none.
        steps: Updates of the whole training.
        start: Updates made so far.
        state: The `state_dict` of that moment.
        on_row: Called with every new row.
        after_all: The last evaluation is made when the weights to keep have been chosen, which is
            after the last checkpoint.

    Raises:
        DataError: The file lacks rows that the checkpoint knows of.
    """

    def __init__(
        self,
        held_out: PreparedItems | None,
        config: TrainConfig,
        *,
        watched: PreparedItems | None,
        file: Path | None,
        steps: int,
        start: int,
        state: Mapping[str, Mapping[str, float]],
        on_row: Callable[[Any], None],
        after_all: bool = False,
    ) -> None:
        self._held_out, self._every, self._steps = held_out, config.evaluate_every, steps
        self._on_row, self._watched = on_row, watched
        self._early_stop = self._alarms = None
        if held_out is not None:
            # Here and not above: without held-out items there is nothing to watch.
            from prefine.training.early_stop import EarlyStop

            probes = held_out.table.relation.name
            # The rows have the alarms of the evaluated items, whoever stops training.
            self._alarms = EarlyStop(config.early_stop or EarlyStopConfig(), probes=probes)
            if config.early_stop is not None:
                self._early_stop = EarlyStop(config.early_stop, probes=probes)
        # Without an update, the evaluation before the first one is made anew.
        if self._alarms is not None and start:
            self._alarms.load_state_dict(state.get("alarms", {}))
        if self._early_stop is not None and start:
            self._early_stop.load_state_dict(state.get("early_stop", {}))
        rows = sum(map(self._is_due, range(start + 1))) if start else 0
        if after_all and start == steps:
            rows -= 1
        if self._every is None and file is not None and not file.is_file():
            rows = 0  # begun by a version that evaluated only where `evaluate_every` was set
        self._log = RowLog(None if held_out is None else file, rows=rows, step=start)
        self._at_end = start == steps

    def after(self, step: int, objective: Objective) -> None:
        """Evaluate, if it is due after update number `step`.

        Args:
            step: Updates made so far.
            objective: With the current hyper-parameters.

        Raises:
            NumericsError: A loss is not finite, or what early stopping reads.
            DataError: Early stopping reads a margin, and there is none.
        """
        self._at_end = step == self._steps
        if self._held_out is None or not self._is_due(step):
            return
        row = evaluation_row(self._held_out, objective, step)
        gives_rewards = self._held_out.forward.gives_rewards
        if self._alarms is not None and not gives_rewards and row.margin is not None:
            self._alarms.read(row)
            row = row.model_copy(update=self._alarms.alarms)
        self._log.write(row)
        self._on_row(row)
        if self._early_stop is not None:
            if self._watched is not None and self._watched is not self._held_out:
                row = evaluation_row(self._watched, objective, step)
            self._early_stop.read(row)

    @property
    def stopped_by(self) -> "Alarm | None":
        """The alarm that ends training before its last update."""
        return None if self._early_stop is None or self._at_end else self._early_stop.stopped_by

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The state for a checkpoint; the rows so far then survive a crash."""
        self._log.sync()
        found = {"alarms": {} if self._alarms is None else self._alarms.state_dict()}
        if self._early_stop is not None:
            found["early_stop"] = self._early_stop.state_dict()
        return found

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def _is_due(self, step: int) -> bool:
        between = self._every is not None and step % self._every == 0
        return between or step in (0, self._steps)


def evaluation_row(held_out: PreparedItems, objective: Objective, step: int) -> Any:
    """Evaluate held-out items; weights and random state stay as they are.

    Args:
        held_out: The items.
        objective: With the current hyper-parameters.
        step: Updates made so far.

    Raises:
        NumericsError: A loss is not finite.
    """
    forward, every = held_out.forward, range(len(held_out.examples))

    def attempt() -> tuple[StepTerms, ItemTokens]:
        batches, cross_prompt = held_out.cut(every)
        # A loss may draw random numbers, and training must not miss them.
        with torch.random.fork_rng([forward.device] if forward.device.type == "cuda" else []):
            return evaluate(
                forward,
                batches,
                held_out.table,
                objective,
                examples=held_out.examples,
                step=step,
                top_k=None if forward.gives_rewards else TOP_TOKENS,
                mismatched=cross_prompt,
            )

    terms, tokens = held_out.retry_smaller(attempt, every)
    weight = terms.logps.weight
    total = objective.value(terms.loss, terms.regularizer)
    prompts = terms.table.prompts
    loss = _ratio(terms.loss * weight, weight, prompts)
    figures = final_figures(terms.logps, terms.table, objective.regularizer)
    add_losses(figures, terms.logps, terms.loss)
    return terms.table.relation.evaluation_row.model_validate(
        {
            **figures,
            "step": step,
            "loss": loss.value,
            "loss_se": loss.error,
            "regularizer": _ratio(terms.regularizer * weight, weight, prompts).value,
            "objective": _ratio(total * weight, weight, prompts).value,
            **({} if forward.gives_rewards else _indicators(tokens, terms.table)),
        }
    )


def _indicators(tokens: ItemTokens, table: ItemTable) -> dict[str, float | None]:
    """Means over the tokens of the answers that training should keep likely, with their errors."""
    values = tokens.values
    mass, raw, entropy = values.top_mass, values.top_entropy, values.entropy
    assert mass is not None and raw is not None and entropy is not None, (
        "the statistics were wanted"
    )
    # With q = p / mass: -sum q log q = (-sum p log p) / mass + log mass.
    renormalised = raw / mass + mass.log()
    columns = {
        "top_mass": mass,
        "top_entropy": raw,
        "top_entropy_renormalised": renormalised,
        "top_entropy_bits": renormalised / math.log(2),
        "entropy": entropy,
    }
    wanted = table.relation.wanted(table)
    prompts = table.prompts_of_completions
    found: dict[str, float | None] = {}
    for name, column in columns.items():
        sums, sizes = tokens.sums(column)[:, 0], table.tokens
        found[name], found[f"{name}_se"] = _ratio(sums[wanted], sizes[wanted], prompts[wanted])
    return found


class _Ratio(NamedTuple):
    """A ratio of sums with its standard error over prompts, None if there is only one."""

    value: float
    error: float | None


def _ratio(
    sums: Float[Tensor, " n"], sizes: Float[Tensor, " n"], prompts: Int[Tensor, " n"]
) -> _Ratio:
    """Sum of `sums` over sum of `sizes`; the error is that of a ratio of means, to first order."""
    top, bottom = sums.double(), sizes.double()
    value = top.sum() / bottom.sum()
    error = error_of(((top - value * bottom) / bottom.mean(), prompts))
    return _Ratio(float(value), error)
