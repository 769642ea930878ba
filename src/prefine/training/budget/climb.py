"""The walk of `delta: auto`: measure a quality now and then, let delta rise, go back at a drop."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefine.records import Record
from prefine.training.budget.probe import Fall
from prefine.training.logging.figures import error_of

_VALUE = "value."


class ClimbRow(Record):
    """A look at the policy after `step` updates made with `delta`, and `next_delta` from there.

    `quality` is the mean over the probe, `gain` its difference to the best look before, with the
    standard error over prompts of the paired difference; None at the first look. `top_step` is the
    best look so far, this one included; training goes on from there if `went_back`.
    """

    step: int
    delta: float
    fall: float
    fall_se: float
    quality: float
    quality_se: float | None
    gain: float | None
    gain_se: float | None
    top_step: int
    went_back: bool
    next_delta: float


@dataclass
class DeltaClimb:
    """Moves delta uphill from below, and remembers the look with the best quality.

    A look that is not worse than the best one becomes the best one. Where the fall has reached
    delta to within its standard error, delta rises by `size`. Where the quality is below the best
    by more than the standard error of their difference, training goes back to the best look,
    `size` is halved, and delta is the best look's fall plus `size`.

    Args:
        delta: Where delta begins.
        size: What it rises by at first.
        every: Updates between two looks.
        prompts: The number of the prompt of each value that a look measures.
    """

    delta: float
    size: float
    every: int
    prompts: Int[Tensor, " n"]
    looks: int = 0
    looked_at: int = 0
    top_step: int = 0
    top_fall: float = 0.0
    top_delta: float = 0.0
    top_values: Sequence[float] = field(default=())
    went_back: int = 0
    highest: float = 0.0

    def is_due(self, step: int) -> bool:
        """Return True if there is a look before update number `step` (from 0)."""
        return step > 0 and step % self.every == 0 and step != self.looked_at

    def take(self, step: int, values: Float[Tensor, " n"], fall: Fall, *, last: bool) -> ClimbRow:
        """Take in a look after `step` updates.

        Args:
            step: Updates made so far.
            values: The quality of each probe item.
            fall: The fall of the probe.
            last: Training is over; its result is the best look.
        """
        values, tried = values.double().cpu(), self.delta
        gain = error = None
        if self.looks:
            difference = values - torch.tensor(self.top_values, dtype=torch.float64)
            gain = float(difference.mean())
            error = error_of((difference, self.prompts)) or 0.0
        worse = gain is not None and error is not None and gain < -error
        if gain is None or gain >= 0:
            self.top_step, self.top_fall, self.top_delta = step, fall.value, tried
            self.top_values = values.tolist()
        back = worse or (last and self.top_step != step)
        if worse:
            self.size /= 2
            self.delta = self.top_fall + self.size
        elif fall.value >= tried - fall.standard_error:
            self.delta = tried + self.size
        if last:
            self.delta = self.top_delta
        self.looks, self.looked_at = self.looks + 1, step
        self.went_back += back and not last
        self.highest = max(self.highest, tried)
        return ClimbRow(
            step=step,
            delta=tried,
            fall=fall.value,
            fall_se=fall.standard_error,
            quality=float(values.mean()),
            quality_se=error_of((values, self.prompts)),
            gain=gain,
            gain_se=error,
            top_step=self.top_step,
            went_back=back,
            next_delta=self.delta,
        )

    def notes(self) -> list[str]:
        """Notes on what was tried, for the end."""
        quality = math.fsum(self.top_values) / len(self.top_values)
        return [
            f"delta: auto (experimental) looked {self.looks} times, with delta up to "
            f"{self.highest:.3g}, went back {self.went_back} times, and kept the weights after "
            f"step {self.top_step} (delta {self.top_delta:.3g}, the probe fell {self.top_fall:.3g},"
            f" reward accuracy {100 * quality:.1f} % of the probe). It is the best of "
            f"{self.looks} looks at the probe, so that this accuracy is too high by what choosing "
            "gives; the untouched half has chosen nothing"
        ]

    def state_dict(self) -> dict[str, float]:
        """Return the state for a checkpoint."""
        numbers = ("delta", "size", "looks", "looked_at", "top_step", "top_fall", "top_delta")
        found = {name: float(getattr(self, name)) for name in (*numbers, "went_back", "highest")}
        return found | {f"{_VALUE}{n}": value for n, value in enumerate(self.top_values)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from a state."""
        self.delta, self.size, self.highest = state["delta"], state["size"], state["highest"]
        self.looks, self.looked_at = int(state["looks"]), int(state["looked_at"])
        self.top_step, self.went_back = int(state["top_step"]), int(state["went_back"])
        self.top_fall, self.top_delta = state["top_fall"], state["top_delta"]
        count = sum(name.startswith(_VALUE) for name in state)
        self.top_values = [state[f"{_VALUE}{n}"] for n in range(count)]
