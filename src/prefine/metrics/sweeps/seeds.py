"""The mean of a table of seeds by prompts, with the uncertainty of both."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.values import finite_values
from prefine.records import MetricValue


def mean_over_seeds(
    name: str,
    values: npt.ArrayLike,
    *,
    scale: float = 1.0,
    unit: str = "",
    within: tuple[float, float] | None = None,
) -> MetricValue:
    """The mean of values [seeds, prompts], such as paired differences of two settings.

    Seeds and prompts are both samples: a value is the sum of a seed's effect, a prompt's effect and
    a rest. The variance of the mean is that of the seeds' means plus that of the prompts' means,
    minus the rest's, which both hold; the interval is Student's, with the degrees of freedom of
    Satterthwaite. With one seed it says nothing about other seeds; with one prompt there is no
    interval.

    Values with a lowest and a highest one have the interval of Wilson instead, which stays between
    them: all means mu that are at most Student's t standard errors away, where the variance at mu
    is the estimated one times (mu - low) (high - mu) over the same of the observed mean. It is that
    of a share of as many independent prompts as would be as uncertain.

    Args:
        name: Name of the metric.
        values: [S, P], the same prompts in the same order for every seed.
        scale: Factor of the values, such as 100 for percentages.
        unit: Their unit.
        within: The lowest and the highest value there can be, before the scale; None: no ends.

    Returns: `n` is the number of prompts.

    Raises:
        ValueError: There is no value, or one is not finite or outside `within`.
    Source: the two-way random-effects analysis of variance; Satterthwaite (1946); Dean and Pagano
        (2015), "Evaluating confidence interval methods for binomial proportions in clustered
        surveys", for Wilson's interval with an effective sample size.
    """
    from scipy.special import stdtrit

    table = finite_values(values, name=name, ndim=2)
    if within is not None and not (within[0] <= table.min() and table.max() <= within[1]):
        raise ValueError(
            f"{name}: values must be in [{within[0]:g}, {within[1]:g}], got {table.min():g} to "
            f"{table.max():g}"
        )
    table = table * scale
    seeds, prompts = table.shape
    mean = float(table.mean())
    by_seed, by_prompt = table.mean(1), table.mean(0)
    if prompts == 1:
        return MetricValue(name=name, value=mean, n=prompts, unit=unit)
    parts = [(float(by_prompt.var(ddof=1)) / prompts, prompts - 1)]
    if seeds > 1:
        parts.append((float(by_seed.var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    freedom = [part**2 / degrees for part, degrees in parts]
    if seeds > 1:
        rest = table - by_seed[:, None] - by_prompt + mean
        degrees = (seeds - 1) * (prompts - 1)
        of_rest = float((rest**2).sum()) / degrees / (seeds * prompts)
        # An estimate of a variance by a difference may be negative; it is never below its parts.
        variance = max(variance - of_rest, *(part for part, _ in parts))
        freedom.append(of_rest**2 / degrees)
    error = math.sqrt(variance)
    interval = None
    if error > 0:
        half = float(stdtrit(max(1.0, variance**2 / sum(freedom)), 0.975)) * error
        interval = (mean - half, mean + half)
        if within is not None:
            interval = _wilson(mean, half, within[0] * scale, within[1] * scale)
    return MetricValue(
        name=name, value=mean, standard_error=error, interval=interval, n=prompts, unit=unit
    )


def _wilson(mean: float, half: float, low: float, high: float) -> tuple[float, float]:
    """The means mu with (mean - mu)^2 <= half^2 (mu - low) (high - mu) / of the same at the mean.

    `mean` is inside (low, high): at an end, all values are the same, and there is no interval.
    """
    share, ratio = (mean - low) / (high - low), half**2 / ((mean - low) * (high - mean))
    middle = (share + ratio / 2) / (1 + ratio)
    reach = math.sqrt(ratio * share * (1 - share) + ratio**2 / 4) / (1 + ratio)
    ends = max(0.0, middle - reach), min(1.0, middle + reach)
    return low + (high - low) * ends[0], low + (high - low) * ends[1]


class BestOfMany(NamedTuple):
    """The best of several settings: which it is, and two estimates of its score.

    `naive` is its mean, which is too high, as it was chosen for its luck, too. `honest` is the
    score on one half of the prompts of the setting that is best on the other half, `chosen`.
    """

    best: int
    naive: MetricValue
    chosen: int
    honest: MetricValue


def best_of_many(
    name: str,
    scores: npt.ArrayLike,
    *,
    seed: int = 0,
    scale: float = 1.0,
    unit: str = "",
    within: tuple[float, float] | None = None,
) -> BestOfMany:
    """The setting with the highest mean, and its score on prompts that have not chosen it.

    One cut in two, and no cross-validation: the parts of one would share their choices, and their
    spread would say too little.

    Args:
        name: Name of the metric.
        scores: [K settings, S seeds, P prompts], the same prompts for all.
        seed: Seed of the cut.
        scale: Factor of the values.
        unit: Their unit.
        within: The lowest and the highest score there can be, which intervals stay between; see
            `mean_over_seeds`.

    Raises:
        ValueError: There are fewer than four prompts, or a value is not finite or outside `within`.
    Source: sample splitting, Cox (1975), "A note on data-splitting for the evaluation of
        significance levels".
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 3 or table.shape[2] < 4:
        raise ValueError(
            f"scores must be [settings, seeds, prompts] with at least 4 prompts, got shape "
            f"{table.shape}"
        )
    order = np.random.default_rng(seed).permutation(table.shape[2])
    choosing, scoring = order[::2], order[1::2]
    best = int(table.mean(axis=(1, 2)).argmax())
    chosen = int(table[:, :, choosing].mean(axis=(1, 2)).argmax())
    return BestOfMany(
        best,
        mean_over_seeds(name, table[best], scale=scale, unit=unit, within=within),
        chosen,
        mean_over_seeds(name, table[chosen][:, scoring], scale=scale, unit=unit, within=within),
    )
