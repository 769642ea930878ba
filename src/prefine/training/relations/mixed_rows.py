"""The rows that training on items of several kinds logs."""

from typing import ClassVar

from prefine.records import Record
from prefine.training.logging.figures import Described, EvaluatedItems, FinalRow, LoggedStep
from prefine.training.relations.labels import LabelFinal
from prefine.training.relations.lists import ListFinal
from prefine.training.relations.pair_rows import FinalFigures

_ROWS: tuple[tuple[str, type[FinalRow]], ...] = (
    ("pairs", FinalFigures),
    ("lists", ListFinal),
    ("labels", LabelFinal),
)


class KindFigures(Record):
    """The figures of each kind that is there, under the names that a training on it alone has.

    A kind's own name counts its items, and `loss` is their mean. `margin` is the mean over the
    items of kinds that have one.
    """

    items: int
    margin: float | None
    kinds: dict[str, dict[str, int | float | None]]

    @property
    def losses(self) -> str:
        """The loss of each kind in words."""
        found = ((kind, row.get("loss")) for kind, row in self.kinds.items())
        return ", ".join(f"{kind} {loss:.3f}" for kind, loss in found if loss is not None)


class MixedStepRow(KindFigures, LoggedStep):
    """One optimizer step on items of several kinds, before its update."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return self.losses


class MixedFinal(FinalRow, KindFigures):
    """All training items under the trained policy; standard errors are over prompts."""

    described: ClassVar[Described] = Described(
        "items",
        "items of several kinds",
        tuple(
            (f"{kind}: {words}", f"{kind}.{name}", unit)
            for kind, row in _ROWS
            for words, name, unit in row.described.figures
        ),
    )


class MixedEvaluationRow(EvaluatedItems, MixedFinal):
    """Held-out items; the indicators are means over tokens of answers that should stay likely."""

    @property
    def headline(self) -> str:
        """The row in a few words."""
        return f"loss {self.loss:.3f} ({self.losses})"
