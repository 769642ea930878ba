"""The relation of lists: several completions of a prompt, best first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefine.errors import DataError
from prefine.losses.facts import reads_scores
from prefine.losses.lists.pairs_within import better
from prefine.losses.protocol import ListLogps, LossFunction
from prefine.records import PreferenceList, Record
from prefine.run.item_rows import list_of
from prefine.training.items import Ids, ReadItem, ReadsTexts, Text, first_reason
from prefine.training.logging.figures import (
    Described,
    EvaluatedItems,
    FinalRow,
    LoggedStep,
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


_TELLING = 0.5
"""Scores of a list that span less give gains that differ by less than two fifths."""


@dataclass(frozen=True)
class TokenizedList:
    """A list as the model reads it, best first.

    `places` are its completions' in the record; `turns` are those of each text, () if none has any.
    """

    word: ClassVar[str] = "list"
    id: str
    prompt_ids: Ids
    completions: tuple[Ids, ...]
    ranks: tuple[int, ...]
    scores: tuple[float, ...] | None
    places: tuple[int, ...]
    weight: float = 1.0
    turns: tuple[Runs, ...] = ()

    @property
    def texts(self) -> tuple[Text, ...]:
        """Best first."""
        answers = zip_longest(self.completions, self.turns, fillvalue=())
        return tuple(Text(self.prompt_ids, *answer) for answer in answers)


class ListFigures(Record):
    """The figures of lists, means over them, in nats.

    `best` and `worst` are a list's first and last completion, `margin` is the difference of their
    log-ratios. `ranking_accuracy` is the share of a list's comparisons, those of two completions of
    different rank, in which the better one has the greater log-ratio; equal ones count half. `fall`
    is the initial minus the current log-probability of the best answer, `token_fall` that per
    token.
    """

    best_logp: float
    worst_logp: float
    best_change: float
    worst_change: float
    margin: float
    ranking_accuracy: float
    fall: float
    token_fall: float


class ListStepRow(ListFigures, LoggedStep):
    """One optimizer step on lists, before its update."""

    lists: int

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"ranking accuracy {self.ranking_accuracy:.0%}, best answers {-self.fall:+.2f} nats"


class ListFinal(FinalRow, ListFigures):
    """All training lists under the trained policy; standard errors are over prompts."""

    described: ClassVar[Described] = Described(
        "lists",
        "lists of answers",
        (
            ("margin of the best over the worst answer", "margin", "nats"),
            ("ranking accuracy (share of a list's comparisons)", "ranking_accuracy", ""),
            ("fall of the best answer's log-probability", "fall", "nats"),
            ("the same per token", "token_fall", "nats"),
            ("change of the worst answer's log-probability", "worst_change", "nats"),
        ),
    )

    lists: int
    margin_se: float | None
    ranking_accuracy_se: float | None
    fall_se: float | None
    token_fall_se: float | None


class ListEvaluationRow(EvaluatedItems, ListFinal):
    """Held-out lists; the indicators are means over the tokens of the best answers."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"loss {self.loss:.3f}, ranking accuracy {self.ranking_accuracy:.0%}"


@dataclass(frozen=True)
class Lists:
    """See `ItemKind`."""

    name: ClassVar[str] = "lists"
    words: ClassVar[str] = "list"
    item: ClassVar[type[TokenizedList]] = TokenizedList
    step_row: ClassVar[type[ListStepRow]] = ListStepRow
    final_row: ClassVar[type[ListFinal]] = ListFinal
    evaluation_row: ClassVar[type[ListEvaluationRow]] = ListEvaluationRow

    @property
    def kinds(self) -> "tuple[Lists, ...]":
        """This kind alone."""
        return (self,)

    def record_of(self, row: dict[str, Any]) -> PreferenceList:
        """The record of a row of its table."""
        return list_of(row)

    def answers(self, record: PreferenceList, item: TokenizedList) -> list[NamedAnswer]:
        """The completions of the record that are in the item."""
        return [
            NamedAnswer(f"completion {place + 1}", record.prompt, record.completions[place])
            for place in item.places
        ]

    def read(self, record: PreferenceList, reader: ReadsTexts) -> ReadItem:
        """Tokenize a list, without the completions that cannot be trained on.

        Of two that are the same tokens, the better one stays.
        """
        readings = [reader.read(record.prompt, one) for one in record.completions]
        kept: dict[Text, int] = {}
        left_out = [one.dropped for one in readings if one.text is None]
        for place, reading in enumerate(readings):
            if reading.text in kept:
                left_out.append("answers_coincide")
            elif reading.text is not None:
                kept[reading.text] = place
        places = tuple(kept.values())
        # Equal scores are an equal rank.
        order = record.ranks or [-score for score in record.scores or ()]
        found = sorted({order[place] for place in places})
        if len(places) < 2:
            return ReadItem(None, first_reason(readings) or "answers_coincide")
        if len(found) < 2:
            return ReadItem(None, "equally_good")
        texts = list(kept)
        item = TokenizedList(
            id=record.id,
            prompt_ids=texts[0].prompt,
            completions=tuple(text.completion for text in texts),
            ranks=tuple(1 + found.index(order[place]) for place in places),
            scores=record.scores and tuple(record.scores[place] for place in places),
            places=places,
            weight=record.weight,
            turns=tuple(text.turns for text in texts),
        )
        used = [readings[place] for place in places]
        return ReadItem(
            item,
            long_prompts=int(used[0].long_prompt),
            long_completions=sum(one.long_completion for one in used),
            left_out=tuple(left_out),
        )

    def check_items(
        self, losses: NamedLosses, items: Sequence[TokenizedList], *, what: str
    ) -> tuple[str, ...]:
        """A note if a loss reads scores that hardly differ.

        Raises:
            DataError: A loss reads scores, and a list has only an order.
        """
        reader = " and ".join(name for name, function in losses if reads_scores(function))
        if not reader:
            return ()
        spans = []
        for item in items:
            if item.scores is None:
                raise no_scores(f"list {item.id}", reader)
            spans.append(max(item.scores) - min(item.scores))
        if not spans or median(spans) >= _TELLING:
            return ()
        return (
            f"the scores of half of the {len(items)} {what} span less than {_TELLING:g} (median "
            f"{median(spans):.2g}): gains of 2^score hardly differ and {reader} learns little; "
            "set its scale, or its labels: ranks",
        )

    def stated(self, items: Sequence[TokenizedList]) -> Stated:
        """Ranks, and scores or NaN, of the completions."""
        return Stated(
            of_items={"weight": [item.weight for item in items]},
            of_completions={
                "rank": [rank for item in items for rank in item.ranks],
                "score": [
                    score
                    for item in items
                    for score in item.scores or (math.nan,) * len(item.completions)
                ],
            },
        )

    def totals(self, table: "ItemTable") -> StepTotals:
        """Lists and the tokens of their best answers in the step, each list by its weight."""
        best = table.of_completions["rank"] == 1
        of_item = torch.arange(len(table.weight)).repeat_interleave(table.counts)[best.cpu()]
        # Of equally good ones their mean.
        share = table.weight[of_item] / torch.bincount(of_item).to(best.device)[of_item]
        return {
            "lists_in_step": float(table.weight.sum()),
            "chosen_tokens_in_step": float((share * table.tokens[best]).sum()),
        }

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> ListLogps:
        """The values of each list in a row."""
        counts = table.counts.tolist()

        def rows(values: Float[Tensor, " C"]) -> Float[Tensor, "B K"]:
            return pad_sequence(list(torch.split(values, counts)), batch_first=True)

        return ListLogps(
            policy=rows(policy),
            ref=rows(table.references["reference"]),
            initial=rows(table.references["initial"]),
            tokens=rows(table.tokens),
            rank=rows(table.of_completions["rank"]),
            score=rows(table.of_completions["score"]),
            present=rows(torch.ones_like(table.tokens, dtype=torch.bool)),
            weight=table.weight,
            **totals,
        )

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The best completions."""
        return (table.counts.cumsum(0) - table.counts).to(table.tokens.device)

    def figures(
        self, logps: ListLogps, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of some lists that every kind of row has."""
        change = logps.policy - logps.initial
        columns = {
            "best_logp": logps.policy[:, 0],
            "worst_logp": _last(logps.policy, logps),
            "best_change": change[:, 0],
            "worst_change": _last(change, logps),
            **_spread(logps),
        }
        return {name: mean(values) for name, values in columns.items()}

    def errors(self, logps: ListLogps, table: "ItemTable") -> dict[str, float | None]:
        """Standard errors over prompts."""
        return standard_errors(_spread(logps), table.prompts)


def no_scores(where: str, reader: str) -> DataError:
    """The error that a list of ranks alone meets a loss that reads scores."""
    return DataError(
        f"{where}: states ranks and no scores, which {reader} reads; set its labels: ranks, give "
        "all rows scores, or choose a loss that reads an order (list_mle)"
    )


def _last(values: Float[Tensor, "B K"], logps: ListLogps) -> Float[Tensor, " B"]:
    """The value of each list's last completion."""
    return values.gather(1, logps.present.sum(1, keepdim=True) - 1).squeeze(1)


def _spread(logps: ListLogps) -> dict[str, Float[Tensor, " B"]]:
    """The values per list whose mean has a standard error."""
    logratio = logps.logratio
    is_better = better(logps)
    right = (torch.sign(logratio[:, :, None] - logratio[:, None, :]) + 1) / 2
    accuracy = (right * is_better).sum((1, 2)) / is_better.sum((1, 2))
    fall = (logps.initial - logps.policy)[:, 0]
    return {
        "margin": logratio[:, 0] - _last(logratio, logps),
        "ranking_accuracy": accuracy,
        "fall": fall,
        "token_fall": fall / logps.tokens[:, 0],
    }
