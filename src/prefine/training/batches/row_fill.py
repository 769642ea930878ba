"""How much of what the layers computed was needed."""

import sys
from collections.abc import Iterable, Mapping, Sequence

import torch

from prefine.training.batches.packing import PackedBatch, groups_of
from prefine.training.distributed.processes import gather
from prefine.training.items import TokenizedPair


def needed_positions(examples: Sequence[TokenizedPair], pairs: Sequence[int]) -> int:
    """Positions of some pairs with each prompt, and each completion of a prompt, once and without padding."""
    return sum(group.tokens for group in groups_of(examples, pairs, sys.maxsize))


class RowFill:
    """Positions over a whole training, in all its processes: needed ones, and those that the layers computed.

    The rest is padding, and prompts that were computed again for another completion or in another
    row.

    Args:
        state: Of an earlier part of the same training, the same in all processes.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        state = state or {}
        self._before = torch.tensor([int(state.get(name, 0)) for name in ("needed", "computed")])
        self._own = torch.zeros_like(self._before)

    def add(self, rows: Iterable[PackedBatch], *, needed: int) -> None:
        """Count the rows that this process has of a step."""
        self._own += torch.tensor([needed, sum(one.positions for one in rows)])

    @property
    def share(self) -> float | None:
        """Needed over computed positions, at most 1; None before any step."""
        needed, computed = self._totals()
        return needed / computed if computed else None

    def notes(self) -> tuple[str, ...]:
        """For the manifest."""
        needed, computed = self._totals()
        if not computed:
            return ()
        rest = "" if needed == computed else "; the rest is padding and prompts computed again"
        return (
            f"{100 * needed / computed:.4g} % of the {computed} positions in the rows were "
            f"needed{rest}",
        )

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return dict(zip(("needed", "computed"), map(float, self._totals()), strict=True))

    def _totals(self) -> tuple[int, int]:
        """Exchanged between the processes, so all of them have to ask."""
        needed, computed = (self._before + gather(self._own).view(-1, 2).sum(0)).tolist()
        return needed, computed
