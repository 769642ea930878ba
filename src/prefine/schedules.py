"""Schedules: hyper-parameters and the learning rate as functions of the step."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Shape = Literal["constant", "linear", "cosine"]
RateShape = Shape | Literal["wsd"]
"""Shapes of a learning rate; "wsd" is warm-up, stable, decay."""


def remaining(shape: Shape, progress: float) -> float:
    """Return the share of the way that is left at `progress` in [0, 1]; 1 for a constant."""
    if shape == "linear":
        return 1 - progress
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


class Schedule(BaseModel):
    """A hyper-parameter that goes from `start` at the first step to `end`.

    `end` is reached at the share `until` of the steps. In a configuration a schedule takes the
    place of a number: `beta: {schedule: linear, start: 0.1, end: 0.01}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schedule: Shape
    start: float
    end: float | None = None
    until: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if (self.end is None) != (self.schedule == "constant"):
            raise ValueError(
                "a constant has only start" if self.schedule == "constant" else "end is missing"
            )
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The first and the last value; all others are between them."""
        return self.start, self.start if self.end is None else self.end

    def at(self, step: int, steps: int) -> float:
        """Return the value at update number `step` (from 0) of `steps`."""
        left = remaining(self.schedule, min(1.0, step / max(1, steps - 1) / self.until))
        first, last = self.ends
        return first * left + last * (1 - left)


def last(value: Any) -> Any:
    """Return the last value of a schedule, and any other value as it is."""
    return value.ends[1] if isinstance(value, Schedule) else value


def learning_rate_factor(
    step: int,
    *,
    steps: int,
    schedule: RateShape,
    warmup_fraction: float,
    decay_fraction: float = 0.2,
) -> float:
    """Share of the peak learning rate at an update: a linear warm-up, then the schedule.

    It is never 0, at the first and the last update neither. "wsd" stays at the peak and falls as
    1 - sqrt(progress) over its last steps.

    Args:
        step: Number of the update, from 0 and below `steps`.
        steps: Updates of the whole training.
        schedule: The shape after the warm-up.
        warmup_fraction: Share of the steps that warm up, in [0, 1].
        decay_fraction: Share of all steps over which "wsd" falls, in [0, 1]; no more than the
            warm-up leaves. Other shapes fall all the way from the warm-up to the end and do not
            read it.
    Returns: In (0, 1].
    Source: arXiv:2404.06395 for "wsd", arXiv:2405.18392 for the root; both are about pretraining.
        The share is ours.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "wsd":
        decay = min(round(decay_fraction * steps), steps - warmup)
        into = step - (steps - decay)
        return 1.0 if into <= 0 else 1 - math.sqrt(into / decay)
    return remaining(schedule, (step - warmup) / max(1, steps - warmup))
