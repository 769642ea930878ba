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
