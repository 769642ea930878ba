"""The relation of reward models: pairs or lists, whose answers have rewards."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.errors import DataError
from prefine.losses.facts import needs_of
from prefine.losses.protocol import LossFunction
from prefine.losses.rewards.protocol import AnswerRewards
from prefine.training.items import ReadItem, ReadsTexts
from prefine.training.relations import reward_rows
from prefine.training.relations.pair_checks import check_pairs
from prefine.training.relations.protocol import (
    ItemKind,
    LossExtras,
    NamedAnswer,
    NamedLosses,
    Stated,
    StepTotals,
)

if TYPE_CHECKING:
    from prefine.training.objective.item_table import ItemTable


@dataclass(frozen=True)
class RewardItems:
    """Pairs or lists for losses that read the rewards of their answers; see `ItemKind`.

    What the engine calls a completion's value is its reward here.

    Args:
        items: The relation of the same items for losses that read log-probabilities.
    """

    items: ItemKind

    @property
    def kind(self) -> reward_rows.Items:
        """The kind of the items."""
        return "lists" if self.items.name == "lists" else "pairs"

    @property
    def name(self) -> str:
        """That of the items: their folder and their column."""
        return self.items.name

    @property
    def words(self) -> str:
        """An item in words."""
        return self.items.words

    @property
    def kinds(self) -> "tuple[RewardItems, ...]":
        """This kind alone."""
        return (self,)

    @property
    def item(self) -> type[Any]:
        """The class of the items."""
        return self.items.item

    @property
    def step_row(self) -> type[reward_rows.RewardStep]:
        """The class of a row of the training log."""
        return reward_rows.ROWS[self.kind].step

    @property
    def final_row(self) -> type[reward_rows.RewardFinal]:
        """The class of the figures at the end."""
        return reward_rows.ROWS[self.kind].final

    @property
    def evaluation_row(self) -> type[reward_rows.RewardEvaluation]:
        """The class of a row of the evaluation log."""
        return reward_rows.ROWS[self.kind].evaluation

    def record_of(self, row: dict[str, Any]) -> Any:
        """The record of a row of its table."""
        return self.items.record_of(row)

    def answers(self, record: Any, item: Any) -> list[NamedAnswer]:
        """The completions of a record that are in its item, in the item's order."""
        return self.items.answers(record, item)

    def read(self, record: Any, reader: ReadsTexts) -> ReadItem:
        """Tokenize a record, or say why it is dropped."""
        return self.items.read(record, reader)

    def check_items(
        self, losses: NamedLosses, items: Sequence[Any], *, what: str
    ) -> tuple[str, ...]:
        """No notes.

        Raises:
            DataError: A loss reads scores, and an item states none.
        """
        if self.kind == "pairs":
            return check_pairs(losses, items, what=what)
        reader = " and ".join(name for name, some in losses if "score_gap" in needs_of(some))
        bare = next((item for item in items if item.scores is None), None)
        if reader and bare is not None:
            raise DataError(
                f"list {bare.id}: states ranks and no scores, which the margin of {reader} reads; "
                "give all rows scores, or leave the loss's margin at 0"
            )
        return ()

    def stated(self, items: Sequence[Any]) -> Stated:
        """Ranks and scores of the completions; of a pair its gap and 0, or NaN."""
        stated = self.items.stated(items)
        of_completions = stated.of_completions
        if self.kind == "pairs":
            gaps = [math.nan if one.score_gap is None else one.score_gap for one in items]
            of_completions = {
                "rank": [rank for _ in items for rank in (1, 2)],
                "score": [score for gap in gaps for score in (gap, 0.0)],
            }
        return Stated({"weight": stated.of_items["weight"]}, of_completions)

    def totals(self, table: "ItemTable") -> StepTotals:
        """None: these losses are means over an item."""
        return {}

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> AnswerRewards:
        """The rewards of each item in a row."""
        counts = table.counts.tolist()

        def rows(values: Float[Tensor, " C"]) -> Float[Tensor, "B K"]:
            return pad_sequence(list(torch.split(values, counts)), batch_first=True)

        return AnswerRewards(
            reward=rows(policy),
            rank=rows(table.of_completions["rank"]),
            score=rows(table.of_completions["score"]),
            present=rows(torch.ones_like(table.tokens, dtype=torch.bool)),
            weight=table.weight,
        )

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The best completions."""
        return (table.counts.cumsum(0) - table.counts).to(table.tokens.device)

    def figures(
        self, logps: AnswerRewards, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of some items that every kind of row has."""
        return reward_rows.figures(logps)

    def errors(self, logps: AnswerRewards, table: "ItemTable") -> dict[str, float | None]:
        """Standard errors over prompts, and the calibration error."""
        return reward_rows.errors(logps, table.prompts)
