"""All items of the run folder, in another order in every epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prefine.config.training import TrainConfig
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import PreparedItems
from prefine.training.step_sources.protocol import Prepare, StepItems


@dataclass(frozen=True)
class StepSchedule:
    """The order of the items over all epochs; an epoch takes every item, in a smaller last step.

    It is a function of the step number and the seed alone.
    """

    num_items: int
    items_per_step: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.num_items // self.items_per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        planned = self.steps_per_epoch * self.epochs
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def items_of(self, step: int) -> list[int]:
        """Indices of the items that step number `step` (from 0) averages over."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
        start = position * self.items_per_step
        return [int(index) for index in order[start : start + self.items_per_step]]


class Shuffled:
    """Every epoch takes all items, shuffled; see `StepSource`.

    They are scored before the first step. The step number says all, so it has no state.
    """

    on_demand: ClassVar[bool] = False

    def __init__(
        self, items: Sequence[TokenizedItem], prepare: Prepare, settings: TrainConfig
    ) -> None:
        self._prepared = prepare(items)
        self._schedule = StepSchedule(
            len(items),
            settings.pairs_per_step,
            settings.epochs,
            settings.seed,
            settings.max_steps,
        )

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return self._schedule.steps

    @property
    def steps_per_epoch(self) -> int:
        """Updates of an epoch."""
        return self._schedule.steps_per_epoch

    def next(self, step: int) -> StepItems:
        """The items of a step."""
        return StepItems(self._prepared, self._schedule.items_of(step))

    def measured_at_end(self) -> PreparedItems:
        """All items."""
        return self._prepared

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; there is nothing to load."""
