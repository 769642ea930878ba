"""Items of several kinds, each kind with its share of every step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from prefine.config.training import TrainConfig
from prefine.errors import ConfigError
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import PreparedItems
from prefine.training.step_sources.protocol import Prepare, StepItems
from prefine.training.step_sources.share_counts import (
    check_shares,
    counts_of_steps,
    most_of_step,
    shares_of,
    steps_of_epoch,
)


@dataclass
class _EndlessOrder:
    """The items of one kind, without end: all of them in a new order, again and again."""

    items: Sequence[int]
    seed: tuple[int, ...]
    number: int = 0
    left: list[int] = field(default_factory=list)

    def take(self, count: int) -> list[int]:
        """The next items, each once."""
        taken, self.left = self.left[:count], self.left[count:]
        if len(taken) < count:
            order = np.random.default_rng([*self.seed, self.number]).permutation(len(self.items))
            self.number += 1
            fresh = [self.items[int(index)] for index in order]
            # Those that this step has from the round before come last in the new one.
            fresh.sort(key=set(taken).__contains__)
            missing = count - len(taken)
            taken, self.left = taken + fresh[:missing], fresh[missing:]
        return taken


class Shares:
    """Every step takes its share of each kind of items; see `StepSource`.

    An epoch is as long as it takes until every item has been in a step; a kind with fewer items for
    its share comes again, in another order. The step number says all, so it has no state.

    Raises:
        ConfigError: A kind's share of a step is less than one item, or more than there are.
    """

    on_demand: ClassVar[bool] = False

    def __init__(
        self,
        items: Sequence[TokenizedItem],
        prepare: Prepare,
        settings: TrainConfig,
        *,
        weights: Mapping[str, float],
        kinds: Mapping[str, type[Any]],
    ) -> None:
        check_shares(weights, settings.pairs_per_step)
        self._per_step, self._seed = settings.pairs_per_step, settings.seed
        self._shares = shares_of(weights)
        self._of_kind = {
            kind: [index for index, item in enumerate(items) if isinstance(item, kinds[kind])]
            for kind in weights
        }
        for kind, indices in self._of_kind.items():
            most = most_of_step(self._shares[kind], self._per_step)
            if len(indices) < most:
                raise ConfigError(
                    f"{kind}.weight: a step takes up to {most} {kind}, and there are "
                    f"{len(indices)} to train on; lower {kind}.weight or train.pairs_per_step"
                )
        numbers = {kind: len(indices) for kind, indices in self._of_kind.items()}
        self.steps_per_epoch = steps_of_epoch(numbers, weights, self._per_step)
        planned = self.steps_per_epoch * settings.epochs
        most_steps = settings.max_steps
        self.steps = planned if most_steps is None else min(planned, most_steps)
        self._prepared = prepare(items)
        self._start_again()

    def next(self, step: int) -> StepItems:
        """The items of a step."""
        if step < self._next:
            self._start_again()
        indices: list[int] = []
        while self._next <= step:
            indices = [
                index
                for kind, count in next(self._counts).items()
                for index in self._rounds[kind].take(count)
            ]
            self._next += 1
        return StepItems(self._prepared, indices)

    def measured_at_end(self) -> PreparedItems:
        """All items."""
        return self._prepared

    def state_dict(self) -> dict[str, Any]:
        """No state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; there is nothing to load."""

    def _start_again(self) -> None:
        self._next = 0
        self._counts = counts_of_steps(self._shares, self._per_step)
        self._rounds = {
            kind: _EndlessOrder(indices, (self._seed, number))
            for number, (kind, indices) in enumerate(self._of_kind.items())
        }
