"""The relation of labelled answers: single completions, each of them good or bad."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.errors import DataError
from prefine.losses.facts import needs_of
from prefine.losses.protocol import LossFunction, PointLogps
from prefine.records import LabelledCompletion, Record
from prefine.run.item_rows import label_of
from prefine.training.items import Ids, ReadItem, ReadsTexts, Text
from prefine.training.logging.figures import (
    Described,
    EvaluatedItems,
    FinalRow,
    LoggedStep,
    error_of,
    mean,
    standard_errors,
)
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


@dataclass(frozen=True)
class TokenizedAnswer:
    """A labelled answer as the model reads it."""

    word: ClassVar[str] = "answer"
    id: str
    prompt_ids: Ids
    completion_ids: Ids
    desirable: bool
    weight: float = 1.0
    turns: Runs = ()

    @property
    def texts(self) -> tuple[Text, ...]:
        """The one answer."""
        return (Text(self.prompt_ids, self.completion_ids, self.turns),)


class LabelFigures(Record):
    """The figures of labelled answers, in nats; None where there is no answer of the kind.

    Log-probabilities and their changes are means over the answers of a kind, `margin` is the
    difference of the two kinds' mean log-ratios. `auc` is the share of comparisons of a good answer
    with a bad one in which the good one has the greater log-ratio, `accuracy` the share of answers
    whose log-ratio has the sign of its label; equal ones and 0 count half. `fall` is the initial
    minus the current log-probability of good answers, `token_fall` that per token.
    """

    desirable_logp: float | None
    undesirable_logp: float | None
    desirable_change: float | None
    undesirable_change: float | None
    margin: float | None
    auc: float | None
    accuracy: float
    fall: float | None
    token_fall: float | None


class LabelStepRow(LabelFigures, LoggedStep):
    """One optimizer step on labelled answers, before its update."""

    labels: int

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"accuracy {self.accuracy:.0%}"


class LabelFinal(FinalRow, LabelFigures):
    """All training answers under the trained policy; standard errors are over prompts."""

    described: ClassVar[Described] = Described(
        "answers",
        "labelled answers",
        (
            ("margin of good over bad answers", "margin", "nats"),
            ("AUC (share of comparisons of a good with a bad answer)", "auc", ""),
            ("accuracy (share of log-ratios that have the label's sign)", "accuracy", ""),
            ("fall of good answers' log-probability", "fall", "nats"),
            ("the same per token", "token_fall", "nats"),
            ("change of bad answers' log-probability", "undesirable_change", "nats"),
        ),
    )

    labels: int
    margin_se: float | None
    auc_se: float | None
    accuracy_se: float | None
    fall_se: float | None
    token_fall_se: float | None


class LabelEvaluationRow(EvaluatedItems, LabelFinal):
    """Held-out answers; the indicators are means over the tokens of the good ones."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        auc = "" if self.auc is None else f", AUC {self.auc:.2f}"
        return f"loss {self.loss:.3f}, accuracy {self.accuracy:.0%}{auc}"


@dataclass(frozen=True)
class Labels:
    """See `ItemKind`."""

    name: ClassVar[str] = "labels"
    words: ClassVar[str] = "labelled answer"
    item: ClassVar[type[TokenizedAnswer]] = TokenizedAnswer
    step_row: ClassVar[type[LabelStepRow]] = LabelStepRow
    final_row: ClassVar[type[LabelFinal]] = LabelFinal
    evaluation_row: ClassVar[type[LabelEvaluationRow]] = LabelEvaluationRow

    @property
    def kinds(self) -> "tuple[Labels, ...]":
        """This kind alone."""
        return (self,)

    def record_of(self, row: dict[str, Any]) -> LabelledCompletion:
        """The record of a row of its table."""
        return label_of(row)

    def answers(self, record: LabelledCompletion, item: TokenizedAnswer) -> list[NamedAnswer]:
        """The one answer."""
        return [NamedAnswer("completion", record.prompt, record.completion)]

    def read(self, record: LabelledCompletion, reader: ReadsTexts) -> ReadItem:
        """Tokenize an answer."""
        reading = reader.read(record.prompt, record.completion)
        if reading.text is None:
            return ReadItem(None, reading.dropped)
        item = TokenizedAnswer(
            id=record.id,
            prompt_ids=reading.text.prompt,
            completion_ids=reading.text.completion,
            desirable=record.desirable,
            weight=record.weight,
            turns=reading.text.turns,
        )
        return ReadItem(
            item,
            long_prompts=int(reading.long_prompt),
            long_completions=int(reading.long_completion),
        )

    def check_items(
        self, losses: NamedLosses, items: Sequence[TokenizedAnswer], *, what: str
    ) -> tuple[str, ...]:
        """A note if all answers have the same label.

        Raises:
            DataError: All have the same prompt, and a loss reads answers to others.
        """
        check_other_prompts(losses, {item.prompt_ids for item in items}, what=what)
        if len({item.desirable for item in items}) != 1:
            return ()
        word = "good" if items[0].desirable else "bad"
        return (f"all {len(items)} {what} say {word}, so that nothing is told apart",)

    def stated(self, items: Sequence[TokenizedAnswer]) -> Stated:
        """The labels."""
        return Stated(
            of_items={
                "weight": [item.weight for item in items],
                "desirable": [float(item.desirable) for item in items],
            },
            of_completions={},
        )

    def totals(self, table: "ItemTable") -> StepTotals:
        """Answers, good ones and their tokens in the step, each answer by its weight."""
        good = table.weight * table.of_items["desirable"]
        return {
            "answers_in_step": float(table.weight.sum()),
            "chosen_in_step": float(good.sum()),
            "chosen_tokens_in_step": float((good * table.tokens).sum()),
        }

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> PointLogps:
        """The values as they are: each answer is an item."""
        return PointLogps(
            policy=policy,
            ref=table.references["reference"],
            initial=table.references["initial"],
            tokens=table.tokens,
            desirable=table.of_items["desirable"],
            weight=table.weight,
            mismatched_logratio=None
            if extras.cross_logps is None or table.cross_ref is None
            else extras.cross_logps - table.cross_ref,
            **totals,
        )

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The good answers; all where none is."""
        good = table.of_items["desirable"].nonzero().squeeze(1)
        return good if len(good) else torch.arange(len(table.weight), device=good.device)

    def figures(
        self, logps: PointLogps, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of some answers that every kind of row has."""
        good = logps.desirable == 1
        change, ratio = logps.policy - logps.initial, logps.logratio.double()
        margin = auc = None
        if good.any() and not good.all():
            margin = float(ratio[good].mean() - ratio[~good].mean())
            auc = mean(_share_below(ratio[good], ratio[~good]))
        fall = -change[good]
        return {
            "desirable_logp": _mean(logps.policy[good]),
            "undesirable_logp": _mean(logps.policy[~good]),
            "desirable_change": _mean(change[good]),
            "undesirable_change": _mean(change[~good]),
            "margin": margin,
            "auc": auc,
            "accuracy": mean(_right(logps)),
            "fall": _mean(fall),
            "token_fall": _mean(fall / logps.tokens[good]),
        }

    def errors(self, logps: PointLogps, table: "ItemTable") -> dict[str, float | None]:
        """Standard errors over prompts; that of the AUC is DeLong's, over prompts."""
        good, ratio = logps.desirable == 1, logps.logratio.double()
        of_good, of_bad = table.prompts[good], table.prompts[~good]
        above, below = ratio[good], ratio[~good]
        won, lost = _share_below(above, below), _share_below(below, above)
        fall = (logps.initial - logps.policy)[good]
        return {
            "margin_se": error_of((above, of_good), (below, of_bad)),
            "auc_se": error_of((won, of_good), (lost, of_bad)),
            **standard_errors({"accuracy": _right(logps)}, table.prompts),
            **standard_errors({"fall": fall, "token_fall": fall / logps.tokens[good]}, of_good),
        }


def check_other_prompts(losses: NamedLosses, prompts: Collection[object], *, what: str) -> None:
    """Raise DataError if a loss reads answers to other prompts, and there is one prompt."""
    readers = [name for name, function in losses if "mismatched" in needs_of(function)]
    if readers and len(prompts) == 1:
        raise DataError(
            f"all {what} have the same prompt, and {' and '.join(readers)} reads answers to other "
            "prompts; give answers to two prompts or more, set its z0 to a number, or choose "
            "another train.loss"
        )


def _right(logps: PointLogps) -> Float[Tensor, " B"]:
    """1 where the log-ratio has the sign of the label, 1/2 where it is 0."""
    return (torch.sign((2 * logps.desirable - 1) * logps.logratio) + 1) / 2


def _share_below(values: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """The share of others below each value, equal ones counting half."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, values.contiguous())
    not_above = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + not_above).double() / (2 * len(others))


def _mean(values: Tensor) -> float | None:
    return mean(values) if values.numel() else None
