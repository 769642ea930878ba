"""Arena-Hard: two games per prompt with sides swapped, a strong verdict counting three times; v0.1 and v2.0."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Groups, bootstrap_ratio, ratio_interval
from prefine.metrics.statistics.resampling import spread
from prefine.metrics.win_rates.leaderboard import rating_draws
from prefine.metrics.win_rates.style_control import same_prompts
from prefine.records import MetricValue

STRONG_WEIGHT = 3
"""How often >> counts."""

ELO_SCALE, ELO_ANCHOR = 400.0, 1000.0

# P(A is better), and whether the verdict is a strong one.
_VERDICTS = {
    "A>>B": (1.0, True),
    "A>B": (1.0, False),
    "A=B": (0.5, False),
    "A<B": (0.0, False),
    "A<<B": (0.0, True),
}
_VERDICTS |= {
    label.translate(str.maketrans("AB", "BA")): (1 - p, strong)
    for label, (p, strong) in _VERDICTS.items()
}


class Battles(NamedTuple):
    """What both games of each prompt say, one row per prompt and model [B].

    Attributes:
        models: Name of the model.
        prompt_ids: Id of the prompt.
        scores: Mean score of the model over its weighted verdicts; NaN where a game has no verdict.
        weights: How many verdicts that are, strong ones counted `STRONG_WEIGHT` times; 0 where
            there is no verdict.
    """

    models: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    scores: Array
    weights: Array


class ArenaHardScores(NamedTuple):
    """Scores of models against one baseline.

    Attributes:
        models: Best first, with the baseline.
        scores: In %; the baseline's is 50. `n` counts the model's prompts with verdicts in both
            games.
        missing: Prompts of each model that were left out, since a game has no verdict.
    """

    models: tuple[str, ...]
    scores: tuple[MetricValue, ...]
    missing: tuple[int, ...]


class ArenaHardElo(NamedTuple):
    """Bradley-Terry scores of v0.1.

    Attributes:
        models: Best first, with the baseline.
        scores: In %; the baseline's is 50.
        elo: In Elo points; the baseline's is 1000.
        missing: Prompts of each model that were left out, since a game has no verdict.
        unbounded: Bootstrap samples without a finite fit. If there is any, nothing has an error or
            an interval.
    """

    models: tuple[str, ...]
    scores: tuple[MetricValue, ...]
    elo: tuple[MetricValue, ...]
    missing: tuple[int, ...]
    unbounded: int


def battles(
    models: Sequence[str],
    prompt_ids: Sequence[str],
    baseline_first: Sequence[str | None],
    model_first: Sequence[str | None],
    *,
    strong_weight: int = STRONG_WEIGHT,
) -> Battles:
    """The rows of judged prompts, A being the answer shown first.

    Args:
        models: Model of each row [B].
        prompt_ids: Prompt of each row [B].
        baseline_first: Verdict of the game with the baseline as A [B], such as "A>>B"; None for no
            verdict.
        model_first: Verdict of the game with the model as A [B].
        strong_weight: How often a strong verdict counts.

    Raises:
        ValueError: Lengths differ, or a verdict is not one of those that Arena-Hard knows.
    Source: `show_result.py` of arena-hard-auto.
    """
    n = len(models)
    if not len(prompt_ids) == len(baseline_first) == len(model_first) == n:
        raise ValueError(
            f"{n} models, but {len(prompt_ids)} prompt ids, {len(baseline_first)} and "
            f"{len(model_first)} verdicts"
        )
    if strong_weight < 1:
        raise ValueError(f"strong_weight must be at least 1, got {strong_weight}")
    scores, weights = np.full(n, np.nan), np.zeros(n)
    for row, games in enumerate(zip(baseline_first, model_first, strict=True)):
        found = [_verdict(game, row) for game in games if game is not None]
        if len(found) < len(games):
            continue
        (lost, strongly), (won, strong) = found
        counts = np.array(
            [strong_weight if strongly else 1, strong_weight if strong else 1], dtype=np.float64
        )
        scores[row], weights[row] = np.dot(counts, [1 - lost, won]) / counts.sum(), counts.sum()
    return Battles(tuple(models), tuple(prompt_ids), scores, weights)


def expanded_battles(
    models: Sequence[str], prompt_ids: Sequence[str], scores: npt.ArrayLike
) -> Battles:
    """The rows of verdicts that were written out as often as they count, as in a file of battles.

    Args:
        models: The model of each verdict [V], not the baseline.
        prompt_ids: Its prompt [V].
        scores: Its score for the model [V]: 1, 0.5 or 0.

    Raises:
        ValueError: Lengths differ, or a score is something else.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not values.shape == (len(models),) == (len(prompt_ids),):
        raise ValueError(
            f"{len(models)} models, but {len(prompt_ids)} prompt ids and scores {values.shape}"
        )
    bad = np.flatnonzero(~np.isin(values, (0.0, 0.5, 1.0)))
    if bad.size:
        raise ValueError(f"scores must be 0, 0.5 or 1, got {values[bad[0]]} at index {bad[0]}")
    sums: dict[tuple[str, str], list[float]] = {}
    for model, prompt, value in zip(models, prompt_ids, values.tolist(), strict=True):
        sums.setdefault((model, prompt), []).append(value)
    return Battles(
        tuple(model for model, _ in sums),
        tuple(prompt for _, prompt in sums),
        np.array([float(np.mean(found)) for found in sums.values()]),
        np.array([float(len(found)) for found in sums.values()]),
    )


def arena_hard_scores(
    rows: Battles, *, baseline: str, samples: int = 2000, seed: int = 0
) -> ArenaHardScores:
    """The mean weighted score of each model, in %; standard errors from a bootstrap over prompts, score intervals.

    Args:
        rows: Of `battles`, without rows of the baseline.
        baseline: Name of the model that all were compared with.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Models have different prompts, one has a prompt twice or no verdict at all, or
            is the baseline.
    Source: Arena-Hard v2.0.
    Deviation: upstream resamples verdicts, which are not independent, gives the mean of 100
        bootstrap samples instead of the mean, and a 90 % interval.
    """
    names, of, known = _models(rows, baseline)
    values, missing = [], []
    for k, _ in enumerate(names):
        mine = known & (of == k)
        sums, counts = (rows.scores * rows.weights)[mine], rows.weights[mine]
        error, interval = None, None
        if mine.sum() > 1:
            spread_, _ = bootstrap_ratio(sums, counts, samples=samples, seed=seed)
            low, high = ratio_interval(sums, counts)
            error, interval = 100 * spread_, (100 * low, 100 * high)
        values.append(
            MetricValue(
                name="arena_hard_score",
                value=100 * float(sums.sum() / counts.sum()),
                standard_error=error,
                interval=interval,
                n=int(mine.sum()),
                unit="%",
            )
        )
        missing.append(int(((of == k) & ~known).sum()))
    asked = len(set(rows.prompt_ids))
    board = [*zip(names, values, missing, strict=True)]
    board.append((baseline, MetricValue(name="arena_hard_score", value=50, n=asked, unit="%"), 0))
    board.sort(key=lambda row: -row[1].value)
    return ArenaHardScores(*(tuple(column) for column in zip(*board, strict=True)))


def arena_hard_elo(
    rows: Battles, *, baseline: str, samples: int = 1000, seed: int = 0
) -> ArenaHardElo:
    """Bradley-Terry scores against the baseline, in %, and Elo ratings, with intervals from a bootstrap over prompts.

    With one baseline a score is exactly the mean score of `arena_hard_scores`, 100 / (1 +
    10^((E_base - E_m) / 400)).

    Args:
        rows: Of `battles`, without rows of the baseline.
        baseline: Name of the model that all were compared with.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: As for `arena_hard_scores`; or a model won or lost everything, so that its
            rating is infinite.
    Source: Arena-Hard v0.1.
    Deviation: upstream resamples verdicts; prompts are resampled here.
    """
    names, of, known = _models(rows, baseline)
    drawn = rating_draws(
        [prompt for prompt, use in zip(rows.prompt_ids, known, strict=True) if use],
        [model for model, use in zip(rows.models, known, strict=True) if use],
        [baseline] * int(known.sum()),
        rows.scores[known],
        weights=rows.weights[known],
        prompts="any",
        samples=samples,
        seed=seed,
    )
    zero = drawn.models.index(baseline)
    gaps, gap_draws = (
        drawn.ratings - drawn.ratings[zero],
        drawn.draws - drawn.draws[:, zero : zero + 1],
    )
    board = []
    for name, n, gap, samples_of in zip(
        drawn.models, drawn.prompts.tolist(), gaps, gap_draws.T, strict=True
    ):
        certain = drawn.unbounded > 0 or not len(samples_of) or name == baseline
        pair = []
        for metric, unit, of_gap in (
            ("arena_hard_bt_score", "%", _score),
            ("arena_hard_elo", "Elo", _elo),
        ):
            error, interval = (None, None) if certain else spread(of_gap(samples_of))
            value = float(of_gap(np.array([gap]))[0])
            pair.append(
                MetricValue(
                    name=metric,
                    value=value,
                    standard_error=error,
                    interval=interval,
                    n=n,
                    unit=unit,
                )
            )
        left_out = 0 if name == baseline else int(((of == names.index(name)) & ~known).sum())
        board.append((name, pair[0], pair[1], left_out))
    board.sort(key=lambda row: -row[1].value)
    models, scores, elo, missing = zip(*board, strict=True)
    return ArenaHardElo(models, scores, elo, missing, drawn.unbounded)


def _score(logits: Array) -> Array:
    scores: Array = 50 + 50 * np.tanh(0.5 * logits)
    return scores


def _elo(logits: Array) -> Array:
    elo: Array = ELO_ANCHOR + ELO_SCALE * logits / np.log(10)
    return elo


def _verdict(game: str, row: int) -> tuple[float, bool]:
    if game not in _VERDICTS:
        raise ValueError(
            f"{game!r} at index {row} is no verdict; one of {', '.join(_VERDICTS)}, or None"
        )
    return _VERDICTS[game]


def _models(
    rows: Battles, baseline: str
) -> tuple[list[str], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Names, the index of each row's name, and which rows have a verdict."""
    groups: Groups = rows.prompt_ids
    names = same_prompts(rows.models, groups, len(rows.scores), baseline=baseline)
    of = np.searchsorted(names, np.asarray(rows.models))
    known = ~np.isnan(rows.scores)
    for k, name in enumerate(names):
        if not known[of == k].any():
            raise ValueError(f"{name} has no prompt with verdicts in both games")
    return names, of, known
