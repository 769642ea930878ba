"""Scores against a baseline at equal style, of one model or of many that share one fit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.logistic import NoFiniteFitError, logistic_regression
from prefine.metrics.statistics.resampling import NO_DRAWS, Resampling, group_index, measured
from prefine.metrics.statistics.values import (
    Array,
    Bools,
    Groups,
    Values,
    same_prompts,
    same_size,
    verdicts,
)
from prefine.metrics.win_rates.style import STYLE_FEATURES
from prefine.records import MetricValue


class StyleControl(NamedTuple):
    """One model's score against the baseline at equal style.

    Attributes:
        score: In %.
        coefficients: What one unit of each of `STYLE_FEATURES` adds to the logit; None where no
            answer has any of it.
        missing: Prompts without a score; `n` counts the others.
        unbounded: Bootstrap samples without a finite fit. If there is any, the score has no error
            and no interval.
    """

    score: MetricValue
    coefficients: tuple[float | None, ...]
    missing: int
    unbounded: int


class StyleLeaderboard(NamedTuple):
    """Scores of many models against one baseline, the judge's taste in style shared by all.

    Attributes:
        models: Best first, with the baseline.
        scores: In %; the baseline's is 50.
        coefficients: What a standard deviation of each of `STYLE_FEATURES` adds to the logit; None
            as above.
        missing: Rows without a score.
        unbounded: As in `StyleControl`.
    """

    models: tuple[str, ...]
    scores: tuple[MetricValue, ...]
    coefficients: tuple[float | None, ...]
    missing: int
    unbounded: int


def style_controlled_score(
    scores: Values,
    features: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> StyleControl:
    """The score of one model at equal style, 100 sigmoid(c) of logit P(win) = c + features · w.

    The style's weights are fitted on this model's own battles, so the score cannot depend on which
    other models are looked at. The price is a wider interval than `style_controlled_scores` has.

    Args:
        scores: P(the model is better) of each prompt [N]; None or NaN for no verdict.
        features: Of `style_features` [N, 4].
        weights: How often each prompt's score counts [N]; None is once.
        samples: Number of bootstrap samples; prompts are resampled.
        seed: Seed of the bootstrap.

    Raises:
        NoFiniteFitError: The model wins all, loses all, or its style alone says which; or its
            difference of style is the same on every prompt, so that it cannot be told from quality.
        ValueError: Shapes that do not fit, a score outside [0, 1], no score at all, a value that is
            not finite.
    Deviation: Arena-Hard v2.0 shares the style's weights between models, `style_controlled_scores`.
    """
    y, x, w, known = _rows(scores, features, weights)
    rows = np.arange(known.sum())
    design = np.column_stack([np.ones(len(rows)), x[known]])
    fit = _fit(design, y[known], w[known], rows, ["the score"], Resampling(samples, seed))
    score = fit.score(0, int(known.sum()), "style_controlled_score")
    coefficients = _coefficients(fit.coefficients[1:], x[known])
    return StyleControl(score, coefficients, int((~known).sum()), fit.unbounded)


def style_controlled_scores(
    models: Sequence[str],
    prompt_ids: Groups,
    scores: Values,
    features: npt.ArrayLike,
    *,
    baseline: str,
    weights: npt.ArrayLike | None = None,
    center: bool = False,
    samples: int = 1000,
    seed: int = 0,
) -> StyleLeaderboard:
    """Scores of many models at equal style, 100 sigmoid(c_m), with one judge's taste for all.

    The fit is logit P(win) = c_m + features · w, with one w for all models.

    Args:
        models: Model of each row [B], never the baseline.
        prompt_ids: Prompt of each row [B].
        scores: P(the model is better than the baseline) [B]; None or NaN for no verdict.
        features: Of `style_features` [B, 4].
        baseline: Name of the baseline.
        weights: How often each row's score counts [B]; None is once.
        center: Subtract the mean style of all loaded rows, as published. Then a score is at that
            mean style, and moves when another model is loaded. Without it, it is at equal style,
            and another model only adds to what is known of the judge's taste: one whose style
            differs from the baseline's by the same on all prompts adds nothing.
        samples: Number of bootstrap samples; prompts are resampled, with all their rows.
        seed: Seed of the bootstrap.

    Raises:
        NoFiniteFitError: As for `style_controlled_score`.
        ValueError: As there; or a model has a prompt twice, prompts that others lack, or is the
            baseline.
    Source: Arena-Hard v2.0 (`center=True`).
    Deviation: the score is the fit's own, not the median of a bootstrap over rows.
    """
    y, x, w, known = _rows(scores, features, weights)
    same_size(scores=y, models=models, prompt_ids=prompt_ids)
    names = compared_models(models, prompt_ids, baseline=baseline)
    of = np.searchsorted(names, np.asarray(models))[known]
    answered = np.bincount(of, minlength=len(names))
    if (answered == 0).any():
        raise ValueError(f"{names[int(answered.argmin())]} has no score at all")
    size = w[known].sum()
    mean = (w[known] @ x[known]) / size
    sd = np.sqrt(w[known] @ (x[known] - mean) ** 2 / max(size - 1, 1e-300))
    moving = sd > 1e-12 * np.maximum(np.abs(mean), 1e-300)
    scaled = (x[known] - (mean if center else 0)) / np.where(moving, sd, 1.0)
    if center:
        scaled[:, ~moving] = 0
    design = np.column_stack([of[:, None] == np.arange(len(names)), scaled])
    prompt = group_index(prompt_ids)
    fit = _fit(design, y[known], w[known], prompt[known], names, Resampling(samples, seed))
    metric = f"style_controlled_score{'_centred' if center else ''}"
    board = [(name, fit.score(k, int(answered[k]), metric)) for k, name in enumerate(names)]
    asked = int(prompt.max()) + 1
    board.append((baseline, MetricValue(name=metric, value=50, n=asked, unit="%")))
    board.sort(key=lambda row: -row[1].value)
    models, scores = zip(*board, strict=True)
    coefficients = _coefficients(fit.coefficients[len(names) :], scaled)
    return StyleLeaderboard(models, scores, coefficients, int((~known).sum()), fit.unbounded)


def compared_models(models: Sequence[str], prompt_ids: Groups, *, baseline: str) -> list[str]:
    """The names of the models, sorted, if each has the same prompts, each once.

    Raises:
        ValueError: One has a prompt twice, prompts that another lacks, or is the baseline.
    """
    prompts: dict[str, list[object]] = {}
    for model, prompt in zip(models, np.asarray(prompt_ids).tolist(), strict=True):
        prompts.setdefault(str(model), []).append(prompt)
    if baseline in prompts:
        raise ValueError(
            f"row {list(models).index(baseline)} is of the baseline {baseline!r} itself; leave "
            "its rows out, its score is 50"
        )
    same_prompts(dict(sorted(prompts.items())))
    return sorted(prompts)


def percent_of_logits(logits: Array) -> Array:
    """100 sigmoid(logits)."""
    percent: Array = 50 + 50 * np.tanh(0.5 * logits)
    return percent


class _StyleFit(NamedTuple):
    """A fit, repeated on bootstrap samples.

    Attributes:
        coefficients: All coefficients [K].
        draws: The models' ones on the samples that have a finite fit [S, M].
        unbounded: The number of samples that have none.
    """

    coefficients: Array
    draws: Array
    unbounded: int

    def score(self, model: int, n: int, name: str) -> MetricValue:
        """The score of a model in %."""
        draws = NO_DRAWS if self.unbounded else percent_of_logits(self.draws[:, model])
        value = float(percent_of_logits(self.coefficients[model : model + 1])[0])
        return measured(name, value, draws, n=n, unit="%")


def _rows(
    scores: Values, features: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Array, Array, Array, Bools]:
    y, x = verdicts(scores, name="scores"), np.asarray(features, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.shape != (len(y), len(STYLE_FEATURES)) or w.shape != y.shape:
        raise ValueError(
            f"{len(y)} scores need features [N, 4] and weights [N], got {x.shape} and {w.shape}"
        )
    known = ~np.isnan(y)
    if not known.any():
        raise ValueError("no prompt has a score")
    return y, x, w, known


def _fit(
    design: Array,
    y: Array,
    w: Array,
    prompt: npt.NDArray[np.integer],
    names: list[str],
    resampling: Resampling,
) -> _StyleFit:
    labels = [*names, *STYLE_FEATURES]
    found = _fit_moving(design, y, w, labels, None)
    prompts = int(prompt.max()) + 1
    draws, unbounded = [], 0
    for block in resampling.weights(prompts) if prompts > 1 else ():
        for drawn in block:
            try:
                refit = _fit_moving(design, y, w * drawn[prompt], labels, found)
            except NoFiniteFitError:
                unbounded += 1
            else:
                draws.append(refit[: len(names)])
    return _StyleFit(found, np.array(draws).reshape(-1, len(names)), unbounded)


def _fit_moving(design: Array, y: Array, w: Array, labels: list[str], start: Array | None) -> Array:
    """The coefficients, 0 for a feature that is 0 in all rows: there is nothing to control."""
    used = np.flatnonzero((design[w > 0] != 0).any(axis=0))
    if missing := [labels[k] for k in range(len(labels) - len(STYLE_FEATURES)) if k not in used]:
        raise NoFiniteFitError(f"{', '.join(missing)}: no row")
    fit = logistic_regression(
        design[:, used],
        y,
        weights=w,
        names=[labels[k] for k in used],
        start=None if start is None else start[used],
    )
    found = np.zeros(design.shape[1])
    found[used] = fit.coefficients
    return found


def _coefficients(found: Array, features: Array) -> tuple[float | None, ...]:
    return tuple(
        float(value) if (column != 0).any() else None
        for value, column in zip(found, features.T, strict=True)
    )
