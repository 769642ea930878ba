"""The goals beyond the published table: the lowest regret within a number of calls, and lazy's equal everywhere."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from prefine.ranking.simulator import JudgeModel
from prefine.ranking.simulator.summary import estimate, label
from ranking_line import Line, cell
from ranking_table import HARD, SOFT

M = 16
GRID_WORLDS, TUNING_WORLDS = 3000, 300
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
    Goal("hard", HARD, 18, 0.42, ({"name": "eubo", "limit": 18}, {"name": "eubo", "limit": 23, "stop_below": 0.01})),
    Goal("soft", SOFT, 30, 0.27, ({"name": "eubo", "limit": 30}, {"name": "eubo"})),
)


def goals(processes: int) -> Iterator[Line]:
    """The regret within the calls, M = 16, accuracy .75, bias .5; `eubo` with the limit as a limit, and as a mean."""
    for goal in GOALS:
        for row in cell(M, list(goal.strategies), processes, judge=goal.judge).rows:
            yield Line(
                f"goal: {goal.name} verdicts, {goal.max_calls:g} calls, regret {goal.regret}",
                f"{label(row.contestant)}: {row.calls.mean:.1f} calls, regret {row.regret.mean:.3f} ± "
                f"{row.regret.standard_error:.3f}",
                row.regret.mean <= goal.regret and row.calls.mean <= goal.max_calls,
            )


def grid(processes: int) -> Iterator[Line]:
    """`eubo` against `lazy` at no more calls, over judges; differences world by world.

    What a duel must promise is set by the calls alone, on worlds of its own: so that `eubo` takes no more than `lazy`.
    """
    lazy: dict[str, Any] = {"name": "iterative", "order": "lazy"}
    for accuracy in (0.65, 0.75, 0.85):
        for bias in (0.0, 0.5, 1.0):
            for noise in (0.0, 0.5, 1.0):
                judge = JudgeModel(accuracy=accuracy, first_slot_bias=bias, order_noise=noise)
                tried = [{"name": "eubo", "limit": 23, "stop_below": stop} for stop in STOPS]
                rows = cell(M, [lazy, *tried], processes, judge=judge, worlds=TUNING_WORLDS, seed=2).rows
                fitting = [
                    rival for rival, row in zip(tried, rows[1:], strict=True) if row.calls.mean <= rows[0].calls.mean
                ]
                run = cell(M, [lazy, fitting[0]], processes, judge=judge, worlds=GRID_WORLDS)
                theirs, ours = run.rows
                change = estimate(run.played[1].regret - run.played[0].regret)
                yield Line(
                    f"acc {accuracy}, bias {bias}, order noise {noise}: eubo, lazy",
                    f"regret {ours.regret.mean:.3f} in {ours.calls.mean:.1f} calls, {theirs.regret.mean:.3f} in "
                    f"{theirs.calls.mean:.1f}; {change.mean:+.3f} ± {change.standard_error:.3f}",
                    change.mean <= 2 * change.standard_error and ours.calls.mean <= theirs.calls.mean + 0.1,
                )
