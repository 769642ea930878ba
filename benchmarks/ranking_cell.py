"""The simulations behind several lines of the ranking benchmark."""

from prefine.api.components import Named
from prefine.api.simulating import Simulation, simulate
from prefine.simulator import JudgeModel

WORLDS = 20_000
"""Shared worlds of each cell."""


def cell(
    completions: int,
    strategies: list[Named] | None,
    processes: int,
    *,
    judge: JudgeModel,
    worlds: int = WORLDS,
    seed: int = 1,
) -> Simulation:
    """Strategies on shared worlds."""
    return simulate(
        completions,
        judge=judge,
        strategies=strategies,
        worlds=worlds,
        seed=seed,
        processes=processes,
    )
