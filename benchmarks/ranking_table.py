"""The published table of strategies, ours beside it, on the same simulated judge."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from line import Line
from prefine.ranking.strategies.top_two import top_two
from prefine.simulator import Contestant, JudgeModel, chunks_of, joined, play
from prefine.simulator.summary import estimate
from ranking_cell import WORLDS, cell

HARD = JudgeModel(accuracy=0.75, first_slot_bias=0.5, order_noise=0.5)
SOFT = JudgeModel(accuracy=0.75, first_slot_bias=0.5, order_noise=0.5, verdicts="soft")
SIZES = (8, 16, 32)
ERRORS = {8: (1.1, 0.012), 16: (1.7, 0.018), 32: (2.9, 0.03)}
"""Standard errors of the published P(best) [points] and regret [sd]."""
WORLDS_THEN = {8: 2000, 16: 850, 32: 280}
"""Worlds behind the published figures, from the error of a P(best) near one half."""
WHY = {"top_two, 2M-2 calls": "better: see the row why"}
"""Where our strategy is not the published one, and how it differs."""


class Published(NamedTuple):
    """A row of the table: what it is called there, and calls, P(best) [%] and regret [sd] by M."""

    name: str
    options: dict[str, Any]
    figures: dict[int, tuple[float, float, float]]


def strategy(published: Published, completions: int) -> dict[str, Any]:
    """The strategy of a row; options may depend on M."""
    return {
        key: value(completions) if callable(value) else value
        for key, value in published.options.items()
    }


TABLE = (
    Published(
        "scan, one order",
        {"name": "iterative", "order": "single"},
        {8: (7, 42, 0.54), 16: (15, 32, 0.74), 32: (31, 22, 0.98)},
    ),
    Published(
        "scan, both",
        {"name": "iterative", "order": "both"},
        {8: (14, 49, 0.38), 16: (30, 44, 0.43), 32: (62, 38, 0.54)},
    ),
    Published(
        "scan, lazy",
        {"name": "iterative", "order": "lazy"},
        {8: (8.8, 49, 0.38), 16: (18, 44, 0.43), 32: (36, 38, 0.54)},
    ),
    Published(
        "knockout, one order",
        {"name": "knockout", "order": "single"},
        {8: (7, 46, 0.41), 16: (15, 41, 0.48), 32: (31, 38, 0.45)},
    ),
    Published(
        "top_two, 2M-2 calls",
        {"name": "top_two", "limit": lambda m: 2 * m - 2},
        {8: (14, 52, 0.35), 16: (30, 45, 0.41), 32: (62, 48, 0.34)},
    ),
    Published(
        "top_two, 3M calls",
        {"name": "top_two", "limit": lambda m: 3 * m},
        {8: (24, 57, 0.25), 16: (48, 55, 0.27), 32: (96, 54, 0.23)},
    ),
    Published(
        "round robin, one order",
        {"name": "round_robin", "order": "single"},
        {8: (28, 53, 0.29), 16: (120, 54, 0.23), 32: (496, 61, 0.15)},
    ),
    Published(
        "score 1-5",
        {"name": "pointwise"},
        {8: (8, 41, 0.49), 16: (16, 34, 0.65), 32: (32, 23, 0.76)},
    ),
    Published(
        "score 1-5, then top-4 duels",
        {"name": "score_then_duel", "k": 4},
        {8: (20, 57, 0.24), 16: (28, 49, 0.31), 32: (44, 41, 0.38)},
    ),
)
SOFT_REGRET = {8: 0.28, 16: 0.31, 32: 0.29}
"""`top_two` at 2M-2 calls, soft verdicts of one order, known bias subtracted."""

GAPS = {
    "scan, random rejected": (
        {"name": "iterative", "order": "lazy"},
        "best_vs_random",
        (1.2, 1.4, 1.6),
    ),
    "minmax": ({"name": "minmax", "order": "single"}, "best_vs_worst", (2.05, 2.54, 3.10)),
    "round robin": ({"name": "round_robin"}, "best_vs_worst", (2.25, 3.09, 3.83)),
}


def table(processes: int) -> Iterator[Line]:
    """Calls, P(best) and regret of every row and M, ours with errors beside the published ones.

    Ours must lie within 3 standard errors of the published figures, or be better by a difference
    that is named.
    """
    for m in SIZES:
        simulation = cell(m, [strategy(row, m) for row in TABLE], processes, judge=HARD)
        p_error, regret_error = ERRORS[m]
        for published, row in zip(TABLE, simulation.rows, strict=True):
            calls, p_best, regret = published.figures[m]
            p, r = 100 * row.p_best.mean, row.regret.mean
            near = abs(p - p_best) <= 3 * p_error and abs(r - regret) <= 3 * regret_error
            better = published.name in WHY and p >= p_best and r <= regret
            yield Line(
                f"M={m} {published.name}",
                f"{row.calls.mean:.1f} / {p:.1f} ± {100 * row.p_best.standard_error:.1f} / "
                f"{r:.3f} ± "
                f"{row.regret.standard_error:.3f}, published {calls:g} / {p_best} / {regret}"
                + (f" ({WHY[published.name]})" if better and not near else ""),
                (near or better) and abs(row.calls.mean - calls) <= 0.5,
            )


def why(processes: int) -> Iterator[Line]:
    """The reasons why our `top_two` is better: a narrower prior, and knowing the slot bias."""
    del processes
    untold = (("prior_sd", 3.0), ("first_slot_bias", 0.0))
    contestant = Contestant(
        "top_two", untold, partial(top_two, limit=30, prior_sd=3.0, first_slot_bias=0.0)
    )
    played = joined(
        [play([contestant], chunk.draw())[0] for chunk in chunks_of(HARD, 16, WORLDS // 4, 1)]
    )
    regret = estimate(played.regret)
    yield Line(
        "M=16 top_two, 30 calls, prior_sd 3, bias not told",
        f"regret {regret.mean:.3f} ± {regret.standard_error:.3f}, published 0.41",
        abs(regret.mean - 0.41) <= 3 * ERRORS[16][1],
    )


def soft(processes: int) -> Iterator[Line]:
    """The published row of soft verdicts."""
    for m in SIZES:
        (row,) = cell(m, [{"name": "top_two", "limit": 2 * m - 2}], processes, judge=SOFT).rows
        yield Line(
            f"M={m} soft verdicts: top_two, 2M-2 calls",
            f"regret {row.regret.mean:.3f} ± {row.regret.standard_error:.3f}, published "
            f"{SOFT_REGRET[m]}",
            abs(row.regret.mean - SOFT_REGRET[m]) <= 3 * ERRORS[m][1],
        )


def gaps(processes: int) -> Iterator[Line]:
    """Quality of chosen minus rejected, within 3 errors and half a digit of the published ones."""
    for place, m in enumerate(SIZES):
        rows = cell(m, [given for given, _, _ in GAPS.values()], processes, judge=HARD).rows
        for (name, (_, selector, published)), row in zip(GAPS.items(), rows, strict=True):
            gap, figure = row.gaps[selector], published[place]
            error = gap.standard_error * math.sqrt(WORLDS / WORLDS_THEN[m])
            digit = 0.05 if name.startswith("scan") else 0.005
            calls = f", {row.calls.mean:g} calls for {1.5 * m - 2:g}" if name == "minmax" else ""
            yield Line(
                f"M={m} gap of {name}",
                f"{gap.mean:.3f} ± {gap.standard_error:.3f}, published {figure} ± "
                f"{error:.3f}{calls}",
                abs(gap.mean - figure) <= 3 * error + digit
                and (name != "minmax" or row.calls.mean == 1.5 * m - 2),
            )
