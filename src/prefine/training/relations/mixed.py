"""Items of several kinds in one training: each has the values, totals and figures of its kind."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.losses.kinds import MixedLogps
from prefine.losses.protocol import LossFunction
from prefine.training.forward.token_values import completions_of
from prefine.training.relations.choose import losses_of_kind
from prefine.training.relations.mixed_rows import MixedEvaluationRow, MixedFinal, MixedStepRow
from prefine.training.relations.protocol import (
    ItemKind,
    LossExtras,
    NamedLosses,
    Stated,
    StepTotals,
)

if TYPE_CHECKING:
    from prefine.training.objective.item_table import ItemTable

_KIND = "kind"
"""The column of a table that says which kind an item is of, by its number."""


class _Part(NamedTuple):
    """The items of one kind: where they are among all, their completions, and their table."""

    kind: ItemKind
    places: Int[Tensor, " b"]
    completions: Int[Tensor, " c"]
    table: "ItemTable"


@dataclass(frozen=True)
class Mixed:
    """See `Relation`.

    Args:
        kinds: The kinds of items, in the order of the configuration's entries.
    """

    kinds: tuple[ItemKind, ...]
    name: ClassVar[str] = "items"
    words: ClassVar[str] = "item"
    step_row: ClassVar[type[MixedStepRow]] = MixedStepRow
    final_row: ClassVar[type[MixedFinal]] = MixedFinal
    evaluation_row: ClassVar[type[MixedEvaluationRow]] = MixedEvaluationRow

    def check_items(
        self, losses: NamedLosses, items: Sequence[Any], *, what: str
    ) -> tuple[str, ...]:
        """The notes of each kind on its items.

        Raises:
            DataError: An item does not state what its loss reads.
            ConfigError: The items' weights do not go together with a loss, or there is none for a
                kind.
        """
        notes: list[str] = []
        for kind in self.kinds:
            of_kind = [item for item in items if isinstance(item, kind.item)]
            said = what.replace(self.name, kind.name)
            notes += kind.check_items(losses_of_kind(losses, kind.name), of_kind, what=said)
        return tuple(notes)

    def stated(self, items: Sequence[Any]) -> Stated:
        """The numbers that each kind states, NaN for items of other kinds, and the kind."""
        numbers = [self._number(item) for item in items]
        counts = [len(item.texts) for item in items]
        of_completion = [
            number for number, count in zip(numbers, counts, strict=True) for _ in range(count)
        ]
        of_items: dict[str, list[float]] = {_KIND: list(map(float, numbers))}
        of_completions: dict[str, list[float]] = {}
        for number, kind in enumerate(self.kinds):
            own = [item for item, one in zip(items, numbers, strict=True) if one == number]
            if own:
                stated = kind.stated(own)
                _fill(of_items, stated.of_items, numbers, number)
                _fill(of_completions, stated.of_completions, of_completion, number)
        return Stated(of_items, of_completions)

    def totals(self, table: "ItemTable") -> StepTotals:
        """The totals of each kind, as `KIND.NAME`."""
        return {
            f"{part.kind.name}.{name}": value
            for part in self._parts(table)
            for name, value in part.kind.totals(part.table).items()
        }

    def inputs(
        self,
        table: "ItemTable",
        policy: Float[Tensor, " C"],
        totals: StepTotals,
        extras: LossExtras,
    ) -> MixedLogps:
        """The inputs of the losses of each kind that is there."""
        parts, places = {}, {}
        for kind, where, completions, of_kind in self._parts(table):
            parts[kind.name] = kind.inputs(
                of_kind,
                policy[completions],
                _of_kind(totals, kind.name),
                replace(
                    extras,
                    items=[extras.items[place] for place in where.tolist()] if extras.items else (),
                    tokens=None if extras.tokens is None else extras.tokens.rows(where),
                    cross_logps=None if extras.cross_logps is None else extras.cross_logps[where],
                ),
            )
            places[kind.name] = where
        return MixedLogps(parts, places, table.weight)

    def wanted(self, table: "ItemTable") -> Int[Tensor, " a"]:
        """The completions of each kind that training should keep likely."""
        found = [
            part.completions[part.kind.wanted(part.table)].flatten() for part in self._parts(table)
        ]
        return torch.cat(found).sort().values

    def figures(
        self, logps: MixedLogps, table: "ItemTable", regularizer: LossFunction | None
    ) -> dict[str, Any]:
        """The figures of each kind, and the mean margin over the items of kinds that have one."""
        found: dict[str, dict[str, Any]] = {}
        for kind, places, _, of_kind in self._parts(table):
            own = kind.figures(logps.parts[kind.name], of_kind, regularizer)
            found[kind.name] = {kind.name: len(places), **own}
        margins = [
            (one["margin"], one[name]) for name, one in found.items() if one["margin"] is not None
        ]
        count = sum(number for _, number in margins)
        margin = sum(value * number for value, number in margins) / count if count else None
        return {"margin": margin, "kinds": found}

    def errors(self, logps: MixedLogps, table: "ItemTable") -> dict[str, Any]:
        """Standard errors over prompts of each kind's figures."""
        return {
            "kinds": {
                part.kind.name: part.kind.errors(logps.parts[part.kind.name], part.table)
                for part in self._parts(table)
            }
        }

    def _number(self, item: Any) -> int:
        return next(n for n, kind in enumerate(self.kinds) if isinstance(item, kind.item))

    def _parts(self, table: "ItemTable") -> Iterator[_Part]:
        """The kinds that have items in a table."""
        numbers = table.of_items[_KIND]
        for number, kind in enumerate(self.kinds):
            places = (numbers == number).nonzero().squeeze(1)
            if len(places):
                completions = completions_of(table.counts, places.cpu()).to(places.device)
                yield _Part(kind, places, completions, replace(table.rows(places), relation=kind))


def _of_kind(totals: StepTotals, kind: str) -> StepTotals:
    prefix = f"{kind}."
    return {
        name.removeprefix(prefix): value
        for name, value in totals.items()
        if name.startswith(prefix)
    }


def _fill(
    columns: dict[str, list[float]],
    values: Mapping[str, Sequence[float]],
    numbers: Sequence[int],
    number: int,
) -> None:
    """Put the values of one kind into the rows that have its number; other rows get NaN."""
    rows = [row for row, one in enumerate(numbers) if one == number]
    for name, column in values.items():
        filled = columns.setdefault(name, [math.nan] * len(numbers))
        for row, value in zip(rows, column, strict=True):
            filled[row] = value
