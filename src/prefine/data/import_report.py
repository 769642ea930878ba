"""Counts of the rows that cannot teach anything and were set aside, with the first places."""

from collections import Counter

from prefine.errors import DataError

_PLACES = 3


class UselessRow(DataError):
    """A row that is well-formed and worthless: empty, a repetition, a tie, too long.

    Args:
        reason: A few words that are counted, such as "empty answer".
        message: Place, value and remedy, for `--strict`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ImportReport:
    """Counts of rows that were dropped, and of rows that were kept with a remark.

    Args:
        strict: Raise on the first dropped or remarked row instead of counting it.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.read = 0
        self.kept = 0
        self.layouts: Counter[str] = Counter()
        self.reasoned = 0
        self.dropped: Counter[str] = Counter()
        self.remarked: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._examples: dict[str, str] = {}

    def drop(self, row: UselessRow, where: str) -> None:
        """Count a row that is left out; raise DataError instead if the report is strict."""
        self._count(self.dropped, row, where)

    def remark(self, reason: str, message: str, where: str) -> None:
        """Count a row that is kept but should be looked at; raise if the report is strict."""
        self._count(self.remarked, UselessRow(reason, message), where)

    def _count(self, counts: Counter[str], row: UselessRow, where: str) -> None:
        if self.strict:
            raise DataError(f"{row} (refused because of --strict)") from row
        counts[row.reason] += 1
        self._examples.setdefault(row.reason, str(row))
        places = self._places.setdefault(row.reason, [])
        if len(places) < _PLACES:
            places.append(where)

    def recognised(self) -> tuple[str, ...]:
        """One line for each layout other than our own columns, and one for split reasoning."""
        lines = [
            f"recognised: {count:,} rows of the layout {layout}"
            for layout, count in self.layouts.items()
            if layout != "prefine"
        ]
        if self.reasoned:
            lines.append(
                f"recognised: {self.reasoned:,} × reasoning in the text of an answer, split off "
                "from it; reasoning: keep leaves it there"
            )
        return tuple(lines)

    def notes(self) -> tuple[str, ...]:
        """One line for each reason, with the first places."""
        return tuple(
            f"{what}: {count:,} × {reason} "
            f"({'; '.join(self._places[reason])}{'; …' if count > _PLACES else ''})"
            for what, counts in (("set aside", self.dropped), ("kept", self.remarked))
            for reason, count in sorted(counts.items())
        )

    def require_some(self, what: str) -> None:
        """Raise DataError if all rows were dropped."""
        if self.kept or not self.dropped:
            return
        lines = [*self.notes(), *(self._examples[reason] for reason in sorted(self.dropped))]
        reasons = "\n".join(f"  {line}" for line in lines)
        raise DataError(
            f"{what}: nothing is left of {self.read:,} rows; give rows that can be used:\n{reasons}"
        )
