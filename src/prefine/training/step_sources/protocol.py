"""A step source: which items each optimizer step averages over, and its state between steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from prefine.config.training import TrainConfig
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import PreparedItems

Prepare = Callable[[Sequence[TokenizedItem]], PreparedItems]
"""Scores items under the initial policy and the references, or reads what is kept of them."""


class StepItems(NamedTuple):
    """The items of a step: those of `prepared` that have these indices."""

    prepared: PreparedItems
    indices: Sequence[int]


class StepSource(Protocol):
    """Gives the items of each step.

    It is a class with `__init__(items, prepare, settings, *, options…)`: `items` are those of the
    run folder, `prepare` scores items under the fixed models, `settings` is the section `train`. A
    source that calls `prepare` after the first step declares
    `on_demand = True`: a frozen copy of the initial policy is then kept in memory. All processes
    must get the same items.
    """

    on_demand: ClassVar[bool]

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Updates after which the log counts a new epoch."""
        ...

    def next(self, step: int) -> StepItems:
        """The items of update number `step` (from 0).

        Called once for each update, in order; after a resume, from the state of the checkpoint on.
        """
        ...

    def measured_at_end(self) -> PreparedItems:
        """The items on which the final figures are measured."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, as JSON values; empty if the step number says all."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        ...


MakeStepSource = Callable[[Sequence[TokenizedItem], Prepare, TrainConfig], StepSource]
"""A step source with its options filled in."""
