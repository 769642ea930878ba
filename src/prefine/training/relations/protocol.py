"""A relation: how its records become items, and their values the input of its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from prefine.losses.kinds import StepLogps
from prefine.losses.protocol import LossFunction, Need
from prefine.losses.token_diff import Differences
from prefine.records import Completion, Prompt, Record
from prefine.training.forward.token_values import ItemTokens
from prefine.training.items import ReadItem, ReadsTexts, TokenizedItem
from prefine.training.logging.figures import FinalRow

if TYPE_CHECKING:
    from prefine.losses.rewards.protocol import ItemValues
    from prefine.training.objective.item_table import ItemTable

NamedLosses = Sequence[tuple[str, LossFunction]]
"""Loss and regularizer, each with its config path and name for messages: "train.loss 'dpo'"."""
StepTotals = Mapping[str, float]
"""Divisors of losses that average over the step, by the names that the losses' input has."""


class NamedAnswer(NamedTuple):
    """A completion of a record: its name within the record, such as chosen, and its prompt."""

    name: str
    prompt: Prompt
    completion: Completion


class Stated(NamedTuple):
    """The numbers that items state: one for each item [n], or one for each completion [C]."""

    of_items: Mapping[str, Sequence[float]]
    of_completions: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class LossExtras:
    """Values that only some losses need, beside each completion's log-probability.

    Args:
        needs: What the losses need.
        items: The items of the values.
        tokens: The policy's values of their tokens; None if not needed.
        cross_logps: The policy's mean log-probability of another item's completions [B].
        head_norms: How far the output head moves the two sides of the step's pairs.
        differences: The way in which the tokens are found in which two answers differ.
    """

    needs: frozenset[Need] = frozenset()
    items: Sequence[TokenizedItem] = ()
    tokens: ItemTokens | None = None
    cross_logps: Float[Tensor, " B"] | None = None
    head_norms: Float[Tensor, " 2"] | None = None
    differences: Differences = "difflib"


class Relation(Protocol):
    """The items of a training: of one kind, or of several; `training/relations/choose.py`.

    `name` is the column of the logs that counts the items. `words` calls an item in messages. The
    classes of the logs' rows are `step_row`, `final_row` and `evaluation_row`.
    """

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def words(self) -> str:
        """An item in words."""
        ...

    @property
    def kinds(self) -> "tuple[ItemKind, ...]":
        """The kinds of items; of one kind, itself."""
        ...

    @property
    def step_row(self) -> type[Record]:
        """The class of a row of the training log."""
        ...

    @property
    def final_row(self) -> type[FinalRow]:
        """The class of the figures at the end."""
        ...

    @property
    def evaluation_row(self) -> type[Record]:
        """The class of a row of the evaluation log."""
        ...

    def check_items(
        self, losses: NamedLosses, items: Sequence[Any], *, what: str
    ) -> tuple[str, ...]:
        """Notes on items that lack what the losses read; `what` they are is for messages.

        Raises:
            DataError: An item does not state what is read.
            ConfigError: The items' weights do not go together with a loss.
        """
        ...

    def stated(self, items: Sequence[Any]) -> Stated:
        """The numbers that items state, their weight among them."""
        ...

    def totals(self, table: "ItemTable") -> StepTotals:
        """The totals of a step of these items."""
        ...

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> StepLogps:
        """The input of a loss: the values [C] of the table and of the policy, by index."""
        ...

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The completions that training should keep likely; indicators are measured on them."""
        ...

    def figures(
        self, logps: Any, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of some items that every kind of row has."""
        ...

    def errors(self, logps: Any, table: "ItemTable") -> Mapping[str, Any]:
        """Standard errors over prompts, named `FIGURE_se`, for the rows that have them."""
        ...


class ItemKind(Relation, Protocol):
    """One kind of training item, which is read from records.

    `name` is also what losses declare that they read, and the folder of the run that holds the
    records. `item` is the class of its items.
    """

    @property
    def item(self) -> type[Any]:
        """The class of its items."""
        ...

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> "ItemValues":
        """As `Relation.inputs`, of one kind."""
        ...

    def record_of(self, row: dict[str, Any]) -> Any:
        """The record of a row of its table."""
        ...

    def answers(self, record: Any, item: Any) -> list[NamedAnswer]:
        """The completions of a record that are in its item, in the item's order."""
        ...

    def read(self, record: Any, reader: ReadsTexts) -> ReadItem:
        """Tokenize a record, or say why it is dropped."""
        ...
