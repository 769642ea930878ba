"""Many models on one scale: Bradley-Terry ratings, and who beats whom.

The fit is the maximum of the likelihood, without a prior: `prefine.ranking` has one, which makes
every rating finite, also of models that never met or never lost. A published scale must not rest on
that, so here such models are an error.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Groups, Values, percentage
from prefine.metrics.statistics.resampling import drawn_prompts, spread
from prefine.metrics.win_rates.meetings import Meetings, Prompts, meetings
from prefine.newton import Indices, LocalLoss, newton
from prefine.records import MetricValue

_NUMBERS_AT_ONCE = 4_000_000


class Leaderboard(NamedTuple):
    """Bradley-Terry ratings: P(a beats b) = sigmoid(rating of a - rating of b).

    Attributes:
        models: Best first.
        ratings: In logits; 0 is the anchor, or else the mean of all models. `n` counts a model's
            prompts.
        missing: Duels without a verdict.
        unbounded: Bootstrap samples without a finite fit. If there is any, no rating has an error
            or an interval.
    """

    models: tuple[str, ...]
    ratings: tuple[MetricValue, ...]
    missing: int
    unbounded: int


class RatingDraws(NamedTuple):
    """Ratings before they are summarised.

    Attributes:
        models: Sorted by name [M].
        ratings: In logits, mean 0 [M].
        draws: The same on each bootstrap sample that has a finite fit [S, M].
        prompts: Of each model, with a verdict [M].
        missing: Duels without a verdict.
        unbounded: Samples without a finite fit.
    """

    models: tuple[str, ...]
    ratings: Array
    draws: Array
    prompts: npt.NDArray[np.integer]
    missing: int
    unbounded: int


class WinMatrix(NamedTuple):
    """Who beats whom.

    Attributes:
        models: Sorted by name.
        cells: [row][column] is how often the row's model beats the column's, in %, prompts counting
            alike; None where the two never met, and on the diagonal.
        missing: Duels without a verdict.
    """

    models: tuple[str, ...]
    cells: tuple[tuple[MetricValue | None, ...], ...]
    missing: int


def bradley_terry_leaderboard(
    prompt_ids: Groups,
    first: Sequence[str],
    second: Sequence[str],
    p_first: Values,
    *,
    weights: npt.ArrayLike | None = None,
    anchor: str | None = None,
    prompts: Prompts = "same",
    samples: int = 1000,
    seed: int = 0,
) -> Leaderboard:
    """The ratings of many models, with intervals from a bootstrap over prompts.

    Args:
        prompt_ids: Prompt of each duel [D].
        first: Model shown first [D].
        second: Model shown second [D].
        p_first: P(first is better) [D]; 0.5 a tie, None or NaN no verdict.
        weights: How often each duel counts [D]; None is once.
        anchor: The model with rating 0; None: the ratings have mean 0.
        prompts: "same" refuses models that were asked on different prompts; "any" is for arenas,
            where the prompts of every pair are drawn at random.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Models are not connected, or some never lose to the others (the message names
            them); a duel appears twice, is of a model with itself, or has an impossible verdict;
            prompts differ; the anchor is unknown.
    Source: Bradley and Terry 1952; when the fit exists, Ford 1957.
    """
    drawn = rating_draws(
        prompt_ids,
        first,
        second,
        p_first,
        weights=weights,
        prompts=prompts,
        samples=samples,
        seed=seed,
    )
    if anchor is not None and anchor not in drawn.models:
        raise ValueError(f"anchor {anchor!r} is not among the models {', '.join(drawn.models)}")
    zero = None if anchor is None else drawn.models.index(anchor)
    ratings, draws = drawn.ratings, drawn.draws
    if zero is not None:
        ratings, draws = ratings - ratings[zero], draws - draws[:, zero : zero + 1]
    values = []
    for m in range(len(ratings)):
        error, interval = None, None
        if len(draws) and not drawn.unbounded and m != zero:
            error, interval = spread(draws[:, m])
        values.append(
            MetricValue(
                name="bradley_terry_rating",
                value=float(ratings[m]),
                standard_error=error,
                interval=interval,
                n=int(drawn.prompts[m]),
                unit="logits",
            )
        )
    order = np.argsort(-ratings, kind="stable")
    return Leaderboard(
        tuple(drawn.models[m] for m in order),
        tuple(values[m] for m in order),
        drawn.missing,
        drawn.unbounded,
    )


def rating_draws(
    prompt_ids: Groups,
    first: Sequence[str],
    second: Sequence[str],
    p_first: Values,
    *,
    weights: npt.ArrayLike | None = None,
    prompts: Prompts = "same",
    samples: int = 1000,
    seed: int = 0,
) -> RatingDraws:
    """Ratings and their bootstrap samples, for what is computed from several at once.

    Args and Raises: as for `bradley_terry_leaderboard`. With a single prompt there are no samples.
    """
    met = meetings(prompt_ids, first, second, p_first, weights=weights, prompts=prompts)
    m = len(met.models)
    wins = _matrices(met, met.wins.sum(axis=0)[None])
    _refuse_unbounded(met.models, wins[0])
    (ratings,) = _fit(wins, np.zeros(m))
    draws, unbounded = [np.zeros((0, m))], 0
    if len(met.wins) >= 2:
        flat = met.wins.reshape(len(met.wins), -1)
        step = max(1, _NUMBERS_AT_ONCE // m**2)
        for block in drawn_prompts(len(flat), samples=samples, seed=seed):
            for start in range(0, len(block), step):
                rows = block[start : start + step] @ flat
                matrices = _matrices(met, rows.reshape(-1, met.wins.shape[1], 2))
                finite = _strongly_connected(matrices > 0)
                unbounded += int((~finite).sum())
                if finite.any():
                    draws.append(_fit(matrices[finite], ratings))
    return RatingDraws(
        met.models, ratings, np.concatenate(draws), met.prompts_of(), met.missing, unbounded
    )


def win_matrix(
    prompt_ids: Groups,
    first: Sequence[str],
    second: Sequence[str],
    p_first: Values,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> WinMatrix:
    """How often each model beats each other one that it met, over the prompts on which they met.

    Args and Raises: as for `bradley_terry_leaderboard`, with any prompts; every cell says how many
        it has. Its interval
    is a score interval, for which nothing is drawn.
    """
    met = meetings(prompt_ids, first, second, p_first, weights=None, prompts="any")
    m = len(met.models)
    counts = met.wins.sum(axis=2)
    asked = counts > 0
    won = np.where(asked, met.wins[:, :, 0] / np.where(asked, counts, 1.0), 0.0)
    cells: list[list[MetricValue | None]] = [[None] * m for _ in range(m)]
    for e, (i, j) in enumerate(met.pairs):
        values = won[asked[:, e], e]
        if values.size:
            for row, column, mine in ((i, j, values), (j, i, 1 - values)):
                cells[row][column] = percentage("win_rate", mine, samples=samples, seed=seed)
    return WinMatrix(met.models, tuple(map(tuple, cells)), met.missing)


def _matrices(met: Meetings, sums: Array) -> Array:
    """Wins of row over column [S, M, M] from those of pairs [S, E, 2]."""
    m = len(met.models)
    wins = np.zeros((len(sums), m, m))
    wins[:, met.pairs[:, 0], met.pairs[:, 1]] = sums[:, :, 0]
    wins[:, met.pairs[:, 1], met.pairs[:, 0]] = sums[:, :, 1]
    return wins


def _reaches(beats: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether a chain of wins leads from row to column [..., M, M]."""
    m = beats.shape[-1]
    reach = (beats | np.eye(m, dtype=np.bool_)).astype(np.float64)
    for _ in range(max(1, int(np.ceil(np.log2(max(m, 2)))))):
        reach = (reach @ reach > 0).astype(np.float64)
    return reach > 0


def _strongly_connected(beats: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(_reaches(beats).all(axis=(-2, -1)))


def _refuse_unbounded(models: tuple[str, ...], wins: Array) -> None:
    """Name what keeps the likelihood from having one finite maximum."""
    beats = wins > 0
    linked = _reaches(beats | beats.T)
    if not linked.all():
        groups = {tuple(models[k] for k in np.flatnonzero(row)) for row in linked}
        shown = "; ".join("{" + ", ".join(group) + "}" for group in sorted(groups))
        raise ValueError(f"models are not connected by duels, so no scale holds them all: {shown}")
    reach = _reaches(beats)
    if reach.all():
        return
    # A group that nobody outside of it beats: all that reach it are in it.
    top = min((reach[:, k] for k in range(len(models))), key=lambda column: int(column.sum()))
    never, rest = ([models[k] for k in np.flatnonzero(group)] for group in (top, ~top))
    raise ValueError(
        f"{', '.join(never)} never lost to {', '.join(rest)}, nor tied: the gap between their "
        "ratings is infinite; "
        "add prompts, or report win rates"
    )


def _fit(wins: Array, start: Array) -> Array:
    """The maximum likelihood ratings of strongly connected wins [S, M, M], mean 0 [S, M]."""
    samples, m = wins.shape[:2]
    diagonal = np.arange(m)

    def local_loss(ratings: Array, rows: Indices) -> LocalLoss:
        won = wins[rows]
        met = won + won.transpose(0, 2, 1)
        p = 0.5 + 0.5 * np.tanh(0.5 * (ratings[:, :, None] - ratings[:, None, :]))
        hessian = -met * p * (1 - p)
        hessian[:, diagonal, diagonal] = -hessian.sum(axis=2)
        # Ratings are known up to a constant. This adds to their mean's curvature only.
        hessian += hessian[:, diagonal, diagonal].mean(axis=1)[:, None, None] / m

        def logit_change(step: Array) -> Array:
            change = np.abs(step[:, :, None] - step[:, None, :])
            largest: Array = np.where(met > 0, change, 0).max(axis=(1, 2))
            return largest

        return LocalLoss((met * p - won).sum(axis=2), hessian, logit_change)

    ratings = newton(local_loss, np.broadcast_to(start - start.mean(), (samples, m)))
    centred: Array = ratings - ratings.mean(axis=1, keepdims=True)
    return centred
