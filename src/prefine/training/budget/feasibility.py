"""Feasibility of a budget: it is infeasible where more weight no longer lowers the fall."""

from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE = 8
"""Measurements between two looks. Ours: a weight needs some steps to act."""


@dataclass
class Feasibility:
    """Watches measurements above the budget.

    A budget is found infeasible if, over 8 measurements that all lie above it by more than their
    standard error, the weight has doubled or stood at its limit, and the fall has not become less.
    A weight below 1, the loss's own slope, is too small to say so.
    """

    above: int = 0
    weight_before: float = 0.0
    fall_before: float = 0.0

    def update(
        self, fall: float, standard_error: float, *, delta: float, weight: float, largest: float
    ) -> bool:
        """Take in a measurement with the weight that led to it; returns True if infeasible."""
        if fall <= delta + standard_error:
            self.above = 0
            return False
        if self.above == 0:
            self.weight_before, self.fall_before = weight, fall
        self.above += 1
        if self.above <= PATIENCE:
            return False
        pushed = weight >= 2 * self.weight_before or weight >= largest
        found = weight >= 1 and pushed and fall >= self.fall_before
        # The next look compares with this measurement.
        self.above, self.weight_before, self.fall_before = 1, weight, fall
        return found

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {name: float(value) for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state."""
        self.above = int(state["above"])
        self.weight_before, self.fall_before = state["weight_before"], state["fall_before"]
