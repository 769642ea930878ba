"""The best possible for few completions: dynamic programming over everything to be asked.

With M completions there are M (M - 1) duels to ask, and 3 ** (M (M - 1)) states of what was asked
and answered: 531,441 for M = 4. Working backwards from all of them gives the lowest regret that any
strategy can have which knows the judge's accuracy, noise and bias. The expectations behind it are
means over simulated worlds, and the best choice is made on the same worlds, which flatters the
bound a little. For M = 16 there is no such bound; what all 240 verdicts together allow is one.
"""

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from line import Line
from prefine.ranking.fitting.belief import Belief
from prefine.ranking.protocol import Duel
from prefine.simulator import JudgeModel, draw_worlds
from prefine.simulator.worlds import WORLDS_PER_CHUNK
from ranking_cell import cell
from ranking_table import HARD

M, DRAWN, PLAYED, EVERYTHING = 4, 400_000, 10_000, 1000


def bound(processes: int) -> Iterator[Line]:
    """The least regret that M = 4 allows by number of calls, and the regret of strategies."""
    least = least_regret(HARD, M, DRAWN)
    for calls in (3, 4, 5, 6, 8, 12):
        rivals = [
            {"name": "eubo", "limit": calls, "stop_below": 0.0},
            {"name": "top_two", "limit": calls},
        ]
        rows = cell(
            M,
            [*rivals, {"name": "iterative", "order": "lazy"}],
            processes,
            judge=HARD,
            worlds=PLAYED,
        ).rows
        reached = ", ".join(f"{row.contestant.name} {row.regret.mean:.3f}" for row in rows[:2])
        lazy = f"; lazy {rows[2].regret.mean:.3f} in {rows[2].calls.mean:.1f}" if calls == 4 else ""
        yield Line(
            f"M = 4, {calls} calls: least possible {least[calls]:.3f}",
            f"{reached} (± {rows[0].regret.standard_error:.3f}){lazy}",
        )
    yield Line("M = 16, all 240 verdicts, hard", f"regret {everything(HARD, 16, EVERYTHING):.3f}")


def least_regret(judge: JudgeModel, completions: int, worlds: int) -> list[float]:
    """The least expected regret with 0, 1, 2, … duels of this judge with hard verdicts [sd]."""
    m = completions
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    sums = np.zeros((m, 2 ** len(pairs)))  # of qualities, by what all verdicts would be
    best = 0.0
    rng = np.random.default_rng(2)
    for _ in range(worlds // WORLDS_PER_CHUNK):
        drawn = draw_worlds(judge, m, WORLDS_PER_CHUNK, rng)
        best += drawn.quality.max(axis=1).sum()
        # Every world counts under all names that its completions could have.
        for names in map(list, permutations(range(m))):
            quality, wins = drawn.quality[:, names], drawn.p_first[:, names][:, :, names] > 0.5
            code = sum(
                wins[:, i, j].astype(np.int64) << place
                for place, (i, j) in enumerate(reversed(pairs))
            )
            for k in range(m):
                sums[k] += np.bincount(code, weights=quality[:, k], minlength=len(sums[k]))
    count = worlds * len(list(permutations(range(m))))
    value = np.max([_with_unasked(total.reshape((2,) * len(pairs))) for total in sums], axis=0)
    unasked = (2,) * len(pairs)
    regrets = [best / worlds - value[unasked] / count]
    for _ in pairs:
        following = value.copy()
        for place in range(len(pairs)):
            here = (slice(None),) * place
            asked = value[(*here, 0)] + value[(*here, 1)]
            np.maximum(following[(*here, 2)], asked, out=following[(*here, 2)])
        value = following
        regrets.append(best / worlds - value[unasked] / count)
    return [float(regret) for regret in regrets]


def _with_unasked(total: np.ndarray) -> np.ndarray:
    """The same with a third value on every axis, "not asked": the sum of the two."""
    for axis in range(total.ndim):
        total = np.concatenate([total, total.sum(axis=axis, keepdims=True)], axis=axis)
    return total


def everything(judge: JudgeModel, completions: int, worlds: int) -> float:
    """The regret of whoever looks best after all verdicts of both orders [sd]."""
    rng, regrets = np.random.default_rng(3), []
    pairs = [(i, j) for i in range(completions) for j in range(completions) if i != j]
    drawn = draw_worlds(judge, completions, worlds, rng)
    for quality, table in zip(drawn.quality, drawn.p_first, strict=True):
        belief = Belief(
            completions,
            len(pairs),
            accuracy=judge.accuracy,
            order_noise=judge.order_noise,
            first_slot_bias=judge.first_slot_logit,
        )
        for pair in pairs:
            belief.take(Duel(*pair), float(table[pair]))
        regrets.append(quality.max() - quality[int(belief.mean.argmax())])
    return float(np.mean(regrets))
