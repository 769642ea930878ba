"""Learning-rate schedules as functions of the step number."""

from prefine.schedules import Shape, remaining


def factor(step: int, *, steps: int, schedule: Shape, warmup_fraction: float) -> float:
    """Share of the peak learning rate at update number `step` (from 0): a linear warm-up, then the schedule.

    The first update already moves, and the last one of a decaying schedule still does.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    return remaining(schedule, (step - warmup) / max(1, steps - warmup))
