"""A step source: which items each optimizer step averages over, and its state between steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from prefine.config.training import TrainConfig
from prefine.training.items import TokenizedItem
from prefine.training.reference.prepare import PreparedItems

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Prepare(Protocol):
    """Scores items under the initial policy and the references, or reads what is kept of them."""

    def __call__(
        self,
        items: Sequence[TokenizedItem],
        /,
        *,
        reference: nn.Module | None = None,
        kept: bool = True,
    ) -> PreparedItems:
        """Return the items with their values.

        Args:
            items: Of the relation that the loss reads.
            reference: Takes the place of the reference, for a source whose reference moves.
            kept: Whether values are kept in files for other trainings, and looked up there. Those
                under a `reference` never are.

        Raises:
            DataError: An item that is not of the run folder lacks a value that the loss reads.
        """
        ...


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
    must get the same items. One that makes pairs of answers that it is given alone declares
    `takes_answers = True`: a run that starts with `labels` then gives it the good ones as pairs of
    an answer with itself.
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


@runtime_checkable
class FollowsPolicy(Protocol):
    """A step source that makes items with weights of the policy, and has weights of its own."""

    def follow(self, policy: "PreTrainedModel") -> None:
        """Take the policy, an adapter attached, with its initial weights; training moves them.

        Called once, before `load_state_dict` and the first step.

        Raises:
            ConfigError: The source cannot follow it.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors for a checkpoint; they are never written to afterwards."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the tensors of a checkpoint."""
        ...


MakeStepSource = Callable[[Sequence[TokenizedItem], Prepare, TrainConfig], StepSource]
"""A step source with its options filled in."""
