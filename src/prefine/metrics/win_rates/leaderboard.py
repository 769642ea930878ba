"""Many models on one scale: Bradley-Terry ratings, and a table of wins.

The fit is the maximum of the likelihood, without a prior: `prefine.ranking` has one, which makes
every rating finite, also of models that never met or never lost. A published scale must not rest on
that, so here such models are an error.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percentage
from prefine.metrics.statistics.resampling import NO_DRAWS, Resampling, measured
from prefine.metrics.statistics.values import (
    Array,
    Bools,
    Groups,
    Values,
    refuse,
    refuse_repeats,
    same_prompts,
    same_size,
    verdicts,
)
from prefine.newton import Indices, LocalLoss, newton
from prefine.records import MetricValue

_NUMBERS_AT_ONCE = 4_000_000
Prompts = Literal["same", "any"]


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

    def anchored(self, model: str) -> "RatingDraws":
        """The ratings with that of this model as 0."""
        zero = self.models.index(model)
        return self._replace(
            ratings=self.ratings - self.ratings[zero], draws=self.draws - self.draws[:, [zero]]
        )

    def finite(self, model: int) -> Array:
        """The model's rating on all bootstrap samples; none if any has no finite fit [S]."""
        return NO_DRAWS if self.unbounded else self.draws[:, model]


class WinMatrix(NamedTuple):
    """Wins of every model over every other one.

    Attributes:
        models: Sorted by name.
        cells: [row][column] is how often the row's model beats the column's, in %, prompts counting
            alike; None where the two never met, and on the diagonal.
        missing: Duels without a verdict.
    """

    models: tuple[str, ...]
    cells: tuple[tuple[MetricValue | None, ...], ...]
    missing: int


class Meetings(NamedTuple):
    """Wins of M models over each other on N prompts.

    Attributes:
        models: Sorted by name [M].
        pairs: Indices i < j of the models that were asked against each other [E, 2].
        wins: Weighted wins of i and of j on each prompt [N, E, 2]; a tie is half of one for both.
        missing: Duels without a verdict.
    """

    models: tuple[str, ...]
    pairs: npt.NDArray[np.intp]
    wins: Array
    missing: int

    def prompts_of(self) -> npt.NDArray[np.integer]:
        """The number of prompts on which each model has a verdict [M]."""
        asked = self.wins.sum(axis=2) > 0
        of_model = (self.pairs == np.arange(len(self.models))[:, None, None]).any(axis=2)
        return np.array([asked[:, pairs].any(axis=1).sum() for pairs in of_model])


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
    met = meetings(prompt_ids, first, second, p_first, weights=weights, prompts=prompts)
    drawn = rating_draws(met, Resampling(samples, seed))
    if anchor is not None and anchor not in drawn.models:
        raise ValueError(f"anchor {anchor!r} is not among the models {', '.join(drawn.models)}")
    if anchor is not None:
        drawn = drawn.anchored(anchor)
    values = [
        measured(
            "bradley_terry_rating",
            float(rating),
            NO_DRAWS if model == anchor else drawn.finite(m),
            n=int(drawn.prompts[m]),
            unit="logits",
        )
        for m, (model, rating) in enumerate(zip(drawn.models, drawn.ratings, strict=True))
    ]
    order = np.argsort(-drawn.ratings, kind="stable")
    return Leaderboard(
        tuple(drawn.models[m] for m in order),
        tuple(values[m] for m in order),
        drawn.missing,
        drawn.unbounded,
    )


def rating_draws(met: Meetings, resampling: Resampling) -> RatingDraws:
    """Ratings and their bootstrap samples; with a single prompt there are no samples.

    Raises:
        ValueError: As for `bradley_terry_leaderboard`.
    """
    m = len(met.models)
    wins = _matrices(met, met.wins.sum(axis=0)[None])
    _refuse_unbounded(met.models, wins[0])
    (ratings,) = _fit(wins, np.zeros(m))
    flat = met.wins.reshape(len(met.wins), -1)
    sums = resampling.draws(len(flat), lambda drawn: drawn @ flat)
    draws, unbounded = [np.zeros((0, m))], 0
    step = max(1, _NUMBERS_AT_ONCE // m**2)
    for start in range(0, len(sums), step):
        matrices = _matrices(met, sums[start : start + step].reshape(-1, met.wins.shape[1], 2))
        finite = _reaches(matrices > 0).all(axis=(-2, -1))
        unbounded += int((~finite).sum())
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
    """The win rate of each model against each other one that it met, over their common prompts.

    Args and Raises: as for `bradley_terry_leaderboard`, with any prompts; every cell says how many
        it has. Its interval is a score interval, for which nothing is drawn.
    """
    met = meetings(prompt_ids, first, second, p_first)
    m = len(met.models)
    counts = met.wins.sum(axis=2)
    asked = counts > 0
    won = np.where(asked, met.wins[:, :, 0] / np.where(asked, counts, 1.0), 0.0)
    cells: list[list[MetricValue | None]] = [[None] * m for _ in range(m)]
    for e, (i, j) in enumerate(met.pairs):
        values = won[asked[:, e], e]
        if values.size:
            for row, column, won_by_row in ((i, j, values), (j, i, 1 - values)):
                cells[row][column] = percentage("win_rate", won_by_row)
    return WinMatrix(met.models, tuple(map(tuple, cells)), met.missing)


def meetings(
    prompt_ids: Groups,
    first: Sequence[str],
    second: Sequence[str],
    p_first: Values,
    *,
    weights: npt.ArrayLike | None = None,
    prompts: Prompts = "any",
) -> Meetings:
    """Duels [D] added up; the order in which two models were shown no longer matters.

    Raises:
        ValueError: Lengths differ, a duel is of a model with itself or appears twice, a verdict or
            a weight is impossible, none has a verdict, or models were asked on different prompts
            (unless `prompts` is "any").
    """
    p = verdicts(p_first, name="p_first")
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    same_size(p_first=p, prompt_ids=prompt_ids, first=first, second=second, weights=w)
    refuse(~(np.isfinite(w) & (w > 0)), w, "must be positive", name="weights")
    if np.isnan(p).all():
        raise ValueError(f"none of {len(p)} duels has a verdict")
    ids = np.asarray(prompt_ids)
    # Repeated verdicts are to be averaged, or given as weights.
    refuse_repeats(zip(ids.tolist(), first, second, strict=True), name="duels")
    models, index = np.unique(np.asarray([*first, *second], dtype=np.str_), return_inverse=True)
    one, other = index[: len(p)], index[len(p) :]
    if (one == other).any():
        place = int((one == other).argmax())
        raise ValueError(f"duel {place} is of {first[place]!r} with itself")
    names = tuple(str(model) for model in models)
    labels, prompt = np.unique(ids, return_inverse=True)
    if prompts == "same":
        same_prompts(
            {name: set(ids[(one == m) | (other == m)].tolist()) for m, name in enumerate(names)}
        )
    low, high = np.minimum(one, other), np.maximum(one, other)
    pairs, pair = np.unique(np.column_stack([low, high]), axis=0, return_inverse=True)
    wins = np.zeros((len(labels), len(pairs), 2))
    known = ~np.isnan(p)
    p_low = np.where(one == low, p, 1 - p)
    for side, share in ((0, p_low), (1, 1 - p_low)):
        np.add.at(wins[:, :, side], (prompt[known], pair.ravel()[known]), (w * share)[known])
    return Meetings(names, pairs, wins, int((~known).sum()))


def _matrices(met: Meetings, sums: Array) -> Array:
    """Wins of row over column [S, M, M] from those of pairs [S, E, 2]."""
    m = len(met.models)
    wins = np.zeros((len(sums), m, m))
    wins[:, met.pairs[:, 0], met.pairs[:, 1]] = sums[:, :, 0]
    wins[:, met.pairs[:, 1], met.pairs[:, 0]] = sums[:, :, 1]
    return wins


def _reaches(beats: Bools) -> Bools:
    """Return for each row and column if a chain of wins leads from row to column [..., M, M]."""
    m = beats.shape[-1]
    reach = (beats | np.eye(m, dtype=np.bool_)).astype(np.float64)
    # Every squaring doubles the length of the chains.
    for _ in range(m.bit_length()):
        reach = (reach @ reach > 0).astype(np.float64)
    return reach > 0


def _refuse_unbounded(models: tuple[str, ...], wins: Array) -> None:
    """Raise ValueError if the likelihood has no single finite maximum, with what prevents it."""
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
    top = min(reach.T, key=np.count_nonzero)
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
