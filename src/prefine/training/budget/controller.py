"""The rule that moves the weight of the budget: proportional-integral control of a fall."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class WeightController:
    """Moves a weight by the errors of a measured quantity; the weight stays in [0, `largest`].

    smoothed_t = smoothing * smoothed_{t-1} + (1 - smoothing) * error_t, from 0, and
    weight_{t+1} = clip(weight_t + gain * (integral * error_t + proportional * (smoothed_t -
    smoothed_{t-1}))). With `proportional` 0 this is dual ascent; the term in the change of the
    error makes the weight rise before the fall has reached the budget, if it falls fast.

    Source: arXiv:2406.04558 (nuPI), algorithm 1.
    """

    gain: float
    proportional: float
    integral: float = 1.0
    smoothing: float = 0.0
    largest: float = float("inf")
    weight: float = 0.0
    smoothed: float = 0.0

    def update(self, error: float) -> float:
        """Take in an error (positive where the weight should rise); returns the new weight."""
        smoothed = self.smoothing * self.smoothed + (1 - self.smoothing) * error
        change = self.integral * error + self.proportional * (smoothed - self.smoothed)
        self.weight = min(max(self.weight + self.gain * change, 0.0), self.largest)
        self.smoothed = smoothed
        return self.weight

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        return {"weight": self.weight, "smoothed": self.smoothed}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state."""
        self.weight, self.smoothed = state["weight"], state["smoothed"]
