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


class Screen:
    """Counts of what was set aside; strict, the first such row is an error.

    Args:
        strict: Refuse instead of counting.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.read = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._first: dict[str, str] = {}

    def drop(self, row: UselessRow, where: str) -> None:
        """Set something aside.

        Raises:
            DataError: The screen is strict.
        """
        if self.strict:
            raise DataError(f"{row} (refused because of --strict)") from row
        self.dropped[row.reason] += 1
        self._first.setdefault(row.reason, str(row))
        places = self._places.setdefault(row.reason, [])
        if len(places) < _PLACES:
            places.append(where)

    def notes(self) -> tuple[str, ...]:
        """One line for each reason, with the first places."""
        return tuple(
            f"set aside: {count:,} × {reason} ({'; '.join(self._places[reason])}{'; …' if count > _PLACES else ''})"
            for reason, count in sorted(self.dropped.items())
        )

    def require_some(self, what: str) -> None:
        """Nothing, if something was kept or nothing was set aside.

        Raises:
            DataError: Everything was set aside.
        """
        if self.dropped and not self.kept:
            lines = (*self.notes(), *(self._first[reason] for reason in sorted(self._first)))
            reasons = "\n".join(f"  {line}" for line in lines)
            raise DataError(f"{what}: nothing is left of {self.read:,} rows; give rows that can be used:\n{reasons}")
