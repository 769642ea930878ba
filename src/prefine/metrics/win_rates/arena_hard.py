"""Arena-Hard v0.1 and v2.0: two games per prompt, a strong verdict counting three times."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import ratio_interval
from prefine.metrics.statistics.resampling import NO_DRAWS, Resampling, measured, ratio_draws
from prefine.metrics.statistics.values import Array, Bools, refuse, same_size
from prefine.metrics.win_rates.leaderboard import meetings, rating_draws
from prefine.metrics.win_rates.style_control import compared_models, percent_of_logits
from prefine.records import MetricValue

Number = TypeVar("Number", float, Array)

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
    """The scores of both games of each prompt, one row per prompt and model [B].

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
    same_size(
        models=models,
        prompt_ids=prompt_ids,
        baseline_first=baseline_first,
        model_first=model_first,
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
    same_size(models=models, prompt_ids=prompt_ids, scores=values)
    refuse(~np.isin(values, (0.0, 0.5, 1.0)), values, "must be 0, 0.5 or 1", name="scores")
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
    """The mean weighted score of each model, in %, with score intervals.

    Standard errors are of a bootstrap over prompts.

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
        draws = ratio_draws(sums, counts, Resampling(samples, seed))
        score = measured(
            "arena_hard_score",
            float(sums.sum() / counts.sum()),
            draws,
            n=int(mine.sum()),
            unit="%",
            scale=100,
        )
        if len(draws):
            low, high = ratio_interval(sums, counts)
            score = score.model_copy(update={"interval": (100 * low, 100 * high)})
        values.append(score)
        missing.append(int(((of == k) & ~known).sum()))
    asked = len(set(rows.prompt_ids))
    board = [*zip(names, values, missing, strict=True)]
    board.append((baseline, MetricValue(name="arena_hard_score", value=50, n=asked, unit="%"), 0))
    board.sort(key=lambda row: -row[1].value)
    return ArenaHardScores(*(tuple(column) for column in zip(*board, strict=True)))


def arena_hard_elo(
    rows: Battles, *, baseline: str, samples: int = 1000, seed: int = 0
) -> ArenaHardElo:
    """Bradley-Terry scores against the baseline, in %, and Elo ratings.

    Intervals are of a bootstrap over prompts. With one baseline a score is the mean score of
    `arena_hard_scores`, 100 / (1 + 10^((E_base - E_m) / 400)).

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
    met = meetings(
        np.asarray(rows.prompt_ids)[known],
        np.asarray(rows.models)[known].tolist(),
        [baseline] * int(known.sum()),
        rows.scores[known],
        weights=rows.weights[known],
    )
    drawn = rating_draws(met, Resampling(samples, seed)).anchored(baseline)
    board = []
    for m, name in enumerate(drawn.models):
        rating = float(drawn.ratings[m])
        draws, n = NO_DRAWS if name == baseline else drawn.finite(m), int(drawn.prompts[m])
        score = float(percent_of_logits(np.array(rating)))
        board.append(
            (
                name,
                measured("arena_hard_bt_score", score, percent_of_logits(draws), n=n, unit="%"),
                measured("arena_hard_elo", _elo(rating), _elo(draws), n=n, unit="Elo"),
                0 if name == baseline else int(((of == names.index(name)) & ~known).sum()),
            )
        )
    board.sort(key=lambda row: -row[1].value)
    models, scores, elo, missing = zip(*board, strict=True)
    return ArenaHardElo(models, scores, elo, missing, drawn.unbounded)


def _elo(logits: Number) -> Number:
    return ELO_ANCHOR + ELO_SCALE / math.log(10) * logits


def _verdict(game: str, row: int) -> tuple[float, bool]:
    if game not in _VERDICTS:
        raise ValueError(
            f"{game!r} at index {row} is no verdict; one of {', '.join(_VERDICTS)}, or None"
        )
    return _VERDICTS[game]


def _models(rows: Battles, baseline: str) -> tuple[list[str], npt.NDArray[np.intp], Bools]:
    """Names, the index of each row's name, and the rows that have a verdict."""
    names = compared_models(rows.models, rows.prompt_ids, baseline=baseline)
    of = np.searchsorted(names, np.asarray(rows.models))
    known = ~np.isnan(rows.scores)
    for k, name in enumerate(names):
        if not known[of == k].any():
            raise ValueError(f"{name} has no prompt with verdicts in both games")
    return names, of, known
