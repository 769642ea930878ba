"""One printed line of the ranking benchmark, and the simulations behind several of them."""

from typing import NamedTuple

from prefine.api.components import Named
from prefine.api.simulating import Simulation, simulate
from prefine.ranking.simulator import JudgeModel

WORLDS = 20_000
"""Shared worlds of each cell."""


class Line(NamedTuple):
    """What was measured, the figure, and whether it is what was asked for; None where nothing was."""

    what: str
    figure: str
    ok: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "MISS", None: "    "}[self.ok]
        return f"{mark} {self.what:<52} {self.figure}"


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
    return simulate(completions, judge=judge, strategies=strategies, worlds=worlds, seed=seed, processes=processes)
