"""An amount that a dry run announces."""

from typing import NamedTuple


class PlannedAmount(NamedTuple):
    """A number of things, or of a unit; `value` is None where it is not known."""

    what: str
    value: int | float | None
    unit: str = ""

    @property
    def text(self) -> str:
        """The amount as people read it."""
        if self.value is None:
            return "not known"
        if self.unit:
            return f"{self.value:,.1f} {self.unit}"
        return f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:,.2f}"
