"""The share of computed positions that a training needed; the rest is padding and repetition."""

import sys
from collections.abc import Iterable, Mapping, Sequence

import torch

from prefine.training.batches.packing import PackedBatch, groups_of
from prefine.training.distributed.processes import gather
from prefine.training.items import TokenizedItem


def needed_positions(items: Sequence[TokenizedItem], indices: Sequence[int]) -> int:
    """Positions of some items with each prompt and completion computed once, without padding."""
    return sum(group.tokens for group in groups_of(items, indices, sys.maxsize))


class RowFill:
    """Counts of needed and of computed positions over a whole training, in all its processes.

    Args:
        state: From `state_dict` of an earlier part of the same training, the same in all processes.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        state = state or {}
        self._earlier = torch.tensor([int(state.get(name, 0)) for name in ("needed", "computed")])
        self._local = torch.zeros_like(self._earlier)

    def add(self, batches: Iterable[PackedBatch], *, needed: int) -> None:
        """Count the batches that this process has of a step."""
        self._local += torch.tensor([needed, sum(batch.positions for batch in batches)])

    @property
    def share(self) -> float | None:
        """Needed over computed positions, at most 1; None before any step."""
        needed, computed = self._totals()
        return needed / computed if computed else None

    def notes(self) -> tuple[str, ...]:
        """The share in words, for the manifest."""
        needed, computed = self._totals()
        if not computed:
            return ()
        rest = "" if needed == computed else "; the rest is padding and prompts computed again"
        return (
            f"{100 * needed / computed:.4g} % of the {computed:,} positions in the rows were "
            f"needed{rest}",
        )

    def state_dict(self) -> dict[str, float]:
        """Both counts, for a checkpoint."""
        needed, computed = self._totals()
        return {"needed": float(needed), "computed": float(computed)}

    def _totals(self) -> tuple[int, int]:
        """Both counts over all processes; an exchange, so all of them have to call it."""
        needed, computed = (self._earlier + gather(self._local[None]).sum(0)).tolist()
        return needed, computed
