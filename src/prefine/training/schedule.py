"""Learning-rate schedules as functions of the step number."""

import math
from typing import Literal


def factor(
    step: int, *, steps: int, schedule: Literal["constant", "linear", "cosine"], warmup_fraction: float
) -> float:
    """Share of the peak learning rate at update number `step` (from 0): a linear warm-up, then the schedule.

    The first update already moves, and the last one of a decaying schedule still does.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
