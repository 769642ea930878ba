"""The relation of pairs: two completions, the chosen one better than the rejected one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import DataError
from prefine.losses.protocol import LossFunction, PairLogps
from prefine.records import LabelledCompletion, PreferencePair
from prefine.run.item_rows import label_of, pair_of
from prefine.training.items import Ids, ReadItem, ReadsTexts, Text, first_reason
from prefine.training.relations import pair_rows
from prefine.training.relations.pair_checks import check_pairs
from prefine.training.relations.protocol import (
    LossExtras,
    NamedAnswer,
    NamedLosses,
    Stated,
    StepTotals,
)
from prefine.turns import Runs

if TYPE_CHECKING:
    from prefine.training.objective.item_table import ItemTable

PROMPT_TOKENS = "chosen_prompt_tokens_in_step"
CHOSEN, REJECTED = slice(0, None, 2), slice(1, None, 2)
"""Slices of values [C] that give those of the chosen and of the rejected completions."""


@dataclass(frozen=True)
class TokenizedPair:
    """A pair as the model reads it.

    `rejected_prompt_ids` is None unless the pair is joint: its rejected completion answers another
    prompt. `chosen_turns` and `rejected_turns` are the `turns` of both texts.
    """

    word: ClassVar[str] = "pair"
    id: str
    prompt_ids: Ids
    chosen_ids: Ids
    rejected_ids: Ids
    p_chosen: float | None = None
    weight: float = 1.0
    score_gap: float | None = None
    rejected_prompt_ids: Ids | None = None
    chosen_turns: Runs = ()
    rejected_turns: Runs = ()

    @property
    def texts(self) -> tuple[Text, ...]:
        """Chosen, then rejected."""
        rejected_prompt = self.rejected_prompt_ids or self.prompt_ids
        return (
            Text(self.prompt_ids, self.chosen_ids, self.chosen_turns),
            Text(rejected_prompt, self.rejected_ids, self.rejected_turns),
        )


@dataclass(frozen=True)
class Pairs:
    """See `ItemKind`.

    Args:
        joint: Whether a pair's rejected completion may answer another prompt.
        alone: Whether records are good answers alone, to which a step source makes the rejected
            ones. Until then each is paired with itself.
    """

    joint: bool = False
    alone: bool = False
    words: ClassVar[str] = "preference pair"
    item: ClassVar[type[TokenizedPair]] = TokenizedPair
    step_row: ClassVar[type[pair_rows.StepRow]] = pair_rows.StepRow
    final_row: ClassVar[type[pair_rows.FinalFigures]] = pair_rows.FinalFigures
    evaluation_row: ClassVar[type[pair_rows.EvaluationRow]] = pair_rows.EvaluationRow

    @property
    def kinds(self) -> "tuple[Pairs, ...]":
        """This kind alone."""
        return (self,)

    @property
    def name(self) -> str:
        """The name, which is that of the table of its records."""
        return "labels" if self.alone else "pairs"

    def record_of(self, row: dict[str, Any]) -> PreferencePair | LabelledCompletion:
        """The record of a row of its table."""
        return label_of(row) if self.alone else pair_of(row)

    def answers(
        self, record: PreferencePair | LabelledCompletion, item: TokenizedPair
    ) -> list[NamedAnswer]:
        """Chosen, then rejected."""
        if isinstance(record, LabelledCompletion):
            return [NamedAnswer("chosen", record.prompt, record.completion)] * 2
        return [
            NamedAnswer("chosen", record.prompt, record.chosen),
            NamedAnswer("rejected", record.rejected_prompt or record.prompt, record.rejected),
        ]

    def read(self, record: PreferencePair | LabelledCompletion, reader: ReadsTexts) -> ReadItem:
        """Tokenize a pair, or a good answer; bad ones are dropped.

        Raises:
            DataError: It has another prompt for its rejected side, and the loss is not joint.
        """
        if isinstance(record, LabelledCompletion):
            return _alone(record, reader)
        joint = record.rejected_prompt is not None
        if joint and not self.joint:
            raise DataError(
                f"pair {record.id}: rejected_prompt is set; only joint losses compare answers to "
                "two prompts"
            )
        readings = [
            reader.read(record.prompt, record.chosen),
            reader.read(record.rejected_prompt or record.prompt, record.rejected),
        ]
        chosen, rejected = (reading.text for reading in readings)
        if chosen is None or rejected is None:
            return ReadItem(None, first_reason(readings))
        if chosen == rejected:
            return ReadItem(None, "sides_coincide")
        item = TokenizedPair(
            id=record.id,
            prompt_ids=chosen.prompt,
            chosen_ids=chosen.completion,
            rejected_ids=rejected.completion,
            p_chosen=record.p_chosen,
            weight=record.weight,
            score_gap=record.score_gap,
            rejected_prompt_ids=rejected.prompt if joint else None,
            chosen_turns=chosen.turns,
            rejected_turns=rejected.turns,
        )
        return ReadItem(
            item,
            long_prompts=sum(one.long_prompt for one in readings[: 2 if joint else 1]),
            long_completions=sum(one.long_completion for one in readings),
        )

    def check_items(
        self, losses: NamedLosses, items: Sequence[TokenizedPair], *, what: str
    ) -> tuple[str, ...]:
        """Notes on pairs that lack what the losses read, see `LossInputCheck`."""
        return check_pairs(losses, items, what=what)

    def stated(self, items: Sequence[TokenizedPair]) -> Stated:
        """The probability that chosen is better, and the score gap, NaN where there is none."""
        return Stated(
            of_items={
                # A pair that states no probability was stated as certain.
                "p_chosen": [1.0 if item.p_chosen is None else item.p_chosen for item in items],
                "weight": [item.weight for item in items],
                "score_gap": [
                    math.nan if item.score_gap is None else item.score_gap for item in items
                ],
            },
            of_completions={},
        )

    def totals(self, table: "ItemTable") -> StepTotals:
        """Pairs and chosen tokens of the step, each pair counted by its weight."""
        weight = table.weight
        return {
            "pairs_in_step": float(weight.sum()),
            "chosen_tokens_in_step": float((weight * table.tokens[CHOSEN]).sum()),
            PROMPT_TOKENS: float((weight * table.of_completions["prompt_tokens"][CHOSEN]).sum()),
        }

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> PairLogps:
        """The values of both sides."""
        reference, tokens = table.references["reference"], table.tokens
        return PairLogps(
            policy_chosen=policy[CHOSEN],
            policy_rejected=policy[REJECTED],
            ref_chosen=reference[CHOSEN],
            ref_rejected=reference[REJECTED],
            initial_chosen=table.references["initial"][CHOSEN],
            chosen_tokens=tokens[CHOSEN],
            rejected_tokens=tokens[REJECTED],
            p_chosen=table.of_items["p_chosen"],
            weight=table.weight,
            score_gap=table.of_items["score_gap"],
            mismatched_logratio=None
            if extras.cross_logps is None or table.cross_ref is None
            else extras.cross_logps - table.cross_ref,
            **_extras(table, totals, extras),
            head_norms=extras.head_norms,
            pairs_in_step=totals["pairs_in_step"],
            chosen_tokens_in_step=totals["chosen_tokens_in_step"],
        )

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The chosen completions."""
        return torch.arange(len(table.tokens), device=table.tokens.device)[CHOSEN]

    def figures(
        self, logps: PairLogps, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of some pairs that every kind of row has."""
        initial = table.references["initial"]
        return pair_rows.figures(logps, initial[CHOSEN], initial[REJECTED], regularizer)

    def errors(self, logps: PairLogps, table: "ItemTable") -> dict[str, float | None]:
        """Standard errors over prompts."""
        return pair_rows.errors(logps, table.references["initial"][REJECTED], table.prompts)


def _extras(table: "ItemTable", totals: StepTotals, extras: LossExtras) -> dict[str, Any]:
    """Values that only some losses need."""
    if not extras.needs & {"tokens", "prompt", "references"}:
        return {}
    # Here and not above: most losses need none of them.
    from prefine.training.relations import pair_extras

    return {
        "tokens": pair_extras.token_logps(table, extras) if "tokens" in extras.needs else None,
        "prompts": pair_extras.prompt_logps(table, totals, extras)
        if "prompt" in extras.needs
        else None,
        "other_references": pair_extras.other_references(table)
        if "references" in extras.needs
        else None,
    }


def _alone(record: LabelledCompletion, reader: ReadsTexts) -> ReadItem:
    """A good answer paired with itself."""
    if not record.desirable:
        return ReadItem(None, "bad_answer")
    reading = reader.read(record.prompt, record.completion)
    if reading.text is None:
        return ReadItem(None, reading.dropped)
    prompt, ids, turns = reading.text
    item = TokenizedPair(
        record.id, prompt, ids, ids, weight=record.weight, chosen_turns=turns, rejected_turns=turns
    )
    return ReadItem(
        item,
        long_prompts=int(reading.long_prompt),
        long_completions=int(reading.long_completion),
    )


def right_order(policy: Float[Tensor, " C"], table: "ItemTable") -> Float[Tensor, " B"]:
    """1 for each pair with a positive margin, half for one with none, and 0 for the others."""
    change = policy - table.references["reference"]
    margin = (change[CHOSEN] - change[REJECTED]).double()
    return (margin.sign() + 1) / 2
