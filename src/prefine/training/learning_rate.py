"""Learning-rate schedules as functions of the step number."""

import math
from typing import Literal

from prefine.schedules import Shape, remaining

RateShape = Shape | Literal["wsd"]
"""Shapes of a learning rate; "wsd" is warm-up, stable, decay."""


def factor(
    step: int,
    *,
    steps: int,
    schedule: RateShape,
    warmup_fraction: float,
    decay_fraction: float = 0.2,
) -> float:
    """Share of the peak learning rate at update number `step` (from 0): a linear warm-up, then the schedule.

    The first update already moves, and the last one of a decaying schedule still does. "wsd" stays
    at the peak and falls as 1 - sqrt(progress) over its last steps.

    Args:
        step: Number of the update, below `steps`.
        steps: Updates of the whole training.
        schedule: Which shape.
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
