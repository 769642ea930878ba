"""What was read and set aside because it cannot teach anything: counted by reason, with the first places."""

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
    """Counts of what was set aside, and of what was kept with a remark; strict, the first of either is an error.

    Args:
        strict: Refuse instead of counting.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.read = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.remarked: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._first: dict[str, str] = {}

    def drop(self, row: UselessRow, where: str) -> None:
        """Set something aside.

        Raises:
            DataError: The screen is strict.
        """
        self._count(self.dropped, row, where)

    def remark(self, row: UselessRow, where: str) -> None:
        """Keep a row that somebody should look at, or one that lost a field which cannot be stored.

        Raises:
            DataError: The screen is strict.
        """
        self._count(self.remarked, row, where)

    def _count(self, counts: Counter[str], row: UselessRow, where: str) -> None:
        if self.strict:
            raise DataError(f"{row} (refused because of --strict)") from row
        counts[row.reason] += 1
        self._first.setdefault(row.reason, str(row))
        places = self._places.setdefault(row.reason, [])
        if len(places) < _PLACES:
            places.append(where)

    def notes(self) -> tuple[str, ...]:
        """One line for each reason, with the first places."""
        return (*self._lines("set aside", self.dropped), *self._lines("kept", self.remarked))

    def _lines(self, what: str, counts: Counter[str]) -> list[str]:
        return [
            f"{what}: {count:,} × {reason} "
            f"({'; '.join(self._places[reason])}{'; …' if count > _PLACES else ''})"
            for reason, count in sorted(counts.items())
        ]

    def require_some(self, what: str) -> None:
        """Nothing, if something was kept or nothing was set aside.

        Raises:
            DataError: Everything was set aside.
        """
        if self.dropped and not self.kept:
            lines = (*self.notes(), *(self._first[reason] for reason in sorted(self.dropped)))
            reasons = "\n".join(f"  {line}" for line in lines)
            raise DataError(
                f"{what}: nothing is left of {self.read:,} rows; give rows that can be "
                f"used:\n{reasons}"
            )
