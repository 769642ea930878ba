"""A replay buffer: the newest so many entries, drawn less the more often they were drawn."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefine.training.items import Ids


@dataclass
class Entry:
    """A rewritten answer.

    Args:
        item: The index of the item whose answer was rewritten.
        number: How many answers were rewritten before.
        ids: Its tokens.
        draws: How often it was drawn; it belongs to the entry, so a checkpoint keeps it.
    """

    item: int
    number: int
    ids: Ids
    draws: int = 0


class ReplayBuffer:
    """First in, first out; arXiv:2405.20830.

    Args:
        size: The most entries; one more drops the oldest.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.entries: list[Entry] = []

    def push(self, entries: Iterable[Entry]) -> None:
        """Add new entries, which may drop old ones."""
        self.entries = [*self.entries, *entries][-self._size :]

    def draw(self, count: int, rng: np.random.Generator) -> list[Entry]:
        """Draw with replacement, with weights 1 / (1 + draws so far); then count these draws."""
        weights = 1.0 / (1.0 + np.array([entry.draws for entry in self.entries]))
        places = rng.choice(len(self.entries), size=count, p=weights / weights.sum())
        drawn = [self.entries[place] for place in places]
        for entry in drawn:
            entry.draws += 1
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """All entries, as JSON values."""
        return {"entries": [[e.item, e.number, e.draws, e.ids] for e in self.entries]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.entries = [
            Entry(item, number, tuple(ids), draws) for item, number, draws, ids in state["entries"]
        ]
