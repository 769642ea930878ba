"""The goals beyond the published table: least regret within some calls; no worse than lazy."""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from line import Line
from prefine.simulator import JudgeModel
from prefine.simulator.summary import CLEAR, estimate, label
from ranking_cell import cell
from ranking_table import HARD, SOFT

M = 16
GRID_WORLDS, TUNING_WORLDS = 4000, 300
STOPS = (0.001, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05)


class Goal(NamedTuple):
    """Calls that may be spent, on average, and the regret to reach [sd]."""

    name: str
    judge: JudgeModel
    max_calls: float
    regret: float
    strategies: tuple[dict[str, Any], ...]


GOALS = (
    Goal("hard", HARD, 30, 0.36, ({"name": "eubo", "limit": 30}, {"name": "eubo"})),
    Goal(
        "hard",
        HARD,
        18,
        0.42,
        ({"name": "eubo", "limit": 18}, {"name": "eubo", "limit": 23, "stop_below": 0.01}),
    ),
    Goal("soft", SOFT, 30, 0.27, ({"name": "eubo", "limit": 30}, {"name": "eubo"})),
)


def goals(processes: int) -> Iterator[Line]:
    """The regret within the calls, M = 16, accuracy .75, bias .5; `eubo` limited and on average."""
    for goal in GOALS:
        for row in cell(M, list(goal.strategies), processes, judge=goal.judge).rows:
            yield Line(
                f"goal: {goal.name} verdicts, {goal.max_calls:g} calls, regret {goal.regret}",
                f"{label(row.contestant)}: {row.calls.mean:.1f} calls, regret "
                f"{row.regret.mean:.3f} ± "
                f"{row.regret.standard_error:.3f}",
                row.regret.mean <= goal.regret and row.calls.mean <= goal.max_calls,
            )


def grid(processes: int) -> Iterator[Line]:
    """`eubo` against `lazy` at no more calls, over 27 judges; differences world by world.

    What a duel must promise, `stop_below`, is not tuned by what is compared: of `STOPS` it is the
    smallest at which `eubo` takes no more calls than `lazy` on 300 worlds of another seed, whatever
    its regret there. All cells have the same seed, so the pooled difference is taken over cells
    first and then over worlds.
    """
    lazy: dict[str, Any] = {"name": "iterative", "order": "lazy"}
    changes = []
    judges = list(product((0.65, 0.75, 0.85), (0.0, 0.5, 1.0), (0.0, 0.5, 1.0)))
    for accuracy, bias, noise in judges:
        judge = JudgeModel(accuracy=accuracy, first_slot_bias=bias, order_noise=noise)
        what = f"acc {accuracy}, bias {bias}, order noise {noise}: eubo, lazy"
        rival = _as_cheap_as(lazy, judge, processes)
        if rival is None:
            yield Line(
                what, f"with no stop_below of {STOPS} eubo takes as few calls as lazy", False
            )
            continue
        run = cell(M, [lazy, rival], processes, judge=judge, worlds=GRID_WORLDS)
        theirs, ours = run.rows
        changes.append(run.played[1].regret - run.played[0].regret)
        change = estimate(changes[-1])
        yield Line(
            what,
            f"regret {ours.regret.mean:.3f} in {ours.calls.mean:.1f} calls, "
            f"{theirs.regret.mean:.3f} in "
            f"{theirs.calls.mean:.1f}; {change.mean:+.3f} ± {change.standard_error:.3f}",
            change.mean <= CLEAR * change.standard_error
            and ours.calls.mean <= theirs.calls.mean + 0.1,
        )
    if changes:
        cells = [estimate(change) for change in changes]
        worse = sum(change.mean > 0 for change in cells)
        clearly = sum(change.mean > CLEAR * change.standard_error for change in cells)
        pooled = estimate(np.mean(changes, axis=0))
        yield Line(
            f"grid: {len(changes)} of {len(judges)} cells",
            f"eubo's mean is worse in {worse}, clearly in {clearly}; pooled {pooled.mean:+.4f} ± "
            f"{pooled.standard_error:.4f}",
        )


def _as_cheap_as(lazy: dict[str, Any], judge: JudgeModel, processes: int) -> dict[str, Any] | None:
    """The first of `eubo`'s settings that takes no more calls, if there is one."""
    tried = [{"name": "eubo", "limit": 23, "stop_below": stop} for stop in STOPS]
    theirs, *ours = cell(
        M, [lazy, *tried], processes, judge=judge, worlds=TUNING_WORLDS, seed=2
    ).rows
    fitting = (
        rival for rival, row in zip(tried, ours, strict=True) if row.calls.mean <= theirs.calls.mean
    )
    return next(fitting, None)
