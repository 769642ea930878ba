"""How much of what the layers computed was needed."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from prefine.training.examples import Example
from prefine.training.rows import Rows, groups_of


def needed_positions(examples: Sequence[Example], pairs: Sequence[int]) -> int:
    """Positions of some pairs with each prompt, and each completion of a prompt, once and without padding."""
    return sum(group.tokens for group in groups_of(examples, pairs, sys.maxsize))


class RowFill:
    """Positions over a whole training: needed ones, and those that the layers computed.

    The rest is padding, and prompts that were computed again for another completion or in another row.

    Args:
        state: Of an earlier part of the same training.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        state = state or {}
        self._needed, self._computed = (int(state.get(name, 0)) for name in ("needed", "computed"))

    def add(self, rows: Iterable[Rows], *, needed: int) -> None:
        """Count the rows of a step."""
        self._needed += needed
        self._computed += sum(one.positions for one in rows)

    @property
    def share(self) -> float | None:
        """Needed over computed positions, at most 1; None before any step."""
        return self._needed / self._computed if self._computed else None

    def notes(self) -> tuple[str, ...]:
        """For the manifest."""
        if self.share is None:
            return ()
        rest = "" if self._needed == self._computed else "; the rest is padding and prompts computed again"
        return (f"{100 * self.share:.4g} % of the {self._computed} positions in the rows were needed{rest}",)

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"needed": float(self._needed), "computed": float(self._computed)}
