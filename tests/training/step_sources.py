"""A step source of a user's own, for the tests: it makes items as it goes and has a state."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from prefine.config.training import TrainConfig
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import PreparedItems
from prefine.training.step_sources.protocol import Prepare, StepItems


class Replay:
    """Every step makes `fresh` new items, and draws the rest of the step from a buffer.

    A new item is one of the run folder's under an id of its own. The state is the buffer and the
    random numbers' state; nothing follows from the step number.
    """

    on_demand: ClassVar[bool] = True

    def __init__(
        self,
        items: Sequence[TokenizedItem],
        prepare: Prepare,
        settings: TrainConfig,
        *,
        fresh: int = 1,
        steps: int = 6,
    ) -> None:
        self._items, self._prepare, self._per_step = items, prepare, settings.pairs_per_step
        self._fresh, self.steps = fresh, steps
        self.steps_per_epoch = steps
        self._rng = np.random.default_rng(settings.seed)
        self._buffer: list[int] = []
        self.asked: list[list[str]] = []

    def next(self, step: int) -> StepItems:
        drawn = [int(n) for n in self._rng.integers(0, len(self._items), self._fresh)]
        kept = len(self._buffer)
        old = [self._buffer[n] for n in self._rng.permutation(kept)[: self._per_step - len(drawn)]]
        self._buffer += drawn
        items: list[Any] = [
            replace(self._items[n], id=f"step {step}, {place}")
            for place, n in enumerate([*drawn, *old])
        ]
        self.asked.append([item.id for item in items])
        return StepItems(self._prepare(items), range(len(items)))

    def measured_at_end(self) -> PreparedItems:
        return self._prepare([self._items[n] for n in sorted(set(self._buffer))])

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": list(self._buffer), "random": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            self._buffer = list(state["buffer"])
            self._rng.bit_generator.state = state["random"]
