"""Win rates of a few human labels, narrowed by a judge's verdicts on all comparisons."""

import math
from typing import NamedTuple

import numpy as np

from prefine.metrics.statistics.intervals import percentage, score_interval
from prefine.metrics.statistics.normal import NORMAL_QUANTILE
from prefine.metrics.statistics.values import Array, Values, probabilities, same_size, verdicts
from prefine.records import MetricValue

FEWEST_LABELS = 20
"""With fewer labels neither their spread nor what the judge shares with them can be told."""

_SURE = 0.975
_LEAST_WORTH = 0.05
"""A judge that saves fewer labels than this share of them narrows the interval by under 2.5 %."""


class PredictionPowered(NamedTuple):
    """A win rate according to people, from n labels and a judge's N further verdicts.

    Attributes:
        estimate: The prediction-powered win rate, in %; `n` counts the labels used.
        labels_only: The mean of the same labels, in %, without the judge.
        judge_only: The mean of all of the judge's verdicts, in %: off by whatever the judge gets
            wrong on average.
        weight: l, from 0 (the judge is left out) to 1 (its verdicts are taken at face value).
        worth: Labels that the judge saves: labels alone would have to be `worth` more for the same
            standard error. 0 where the judge adds nothing.
        adds_nothing: The judge's verdicts do not go with the labels beyond what chance gives (at
            2.5 %, one-sided), or save fewer than 5 in 100 labels.
        comparisons: n + N, all comparisons with a verdict of the judge.
        missing: Labels, and comparisons without one, that the judge has no verdict on. They are in
            none of the figures: a missing verdict is no tie.
    """

    estimate: MetricValue
    labels_only: MetricValue
    judge_only: MetricValue
    weight: float
    worth: float
    adds_nothing: bool
    comparisons: int
    missing: int

    def labels_needed(self, half_width: float) -> int | None:
        """Return how many more labels make the interval as narrow as the estimate ± half_width.

        The labels come from the same comparisons, as widely spread as those so far, and the judge
        goes with them as well as so far. Of labels that are all equal it asks for too many.

        Args:
            half_width: In percentage points.

        Returns: 0 if it is as narrow already; None if labels on all comparisons would not do.

        Raises:
            ValueError: `half_width` is not above 0.
        """
        if not half_width > 0:
            raise ValueError(f"half_width must be above 0 percentage points, got {half_width}")
        low, high = self.estimate.interval or (0.0, 100.0)
        if high - low <= 2 * half_width:
            return 0
        n, total = self.estimate.n, self.comparisons
        # The squared width at n' labels goes with (1 - r) / n' + r / (n + N), if the judge explains
        # the share r of the labels' variance; at n' = n it saves `worth` labels.
        explained = self.worth / (n + self.worth) * total / (total - n) if self.worth else 0.0
        explained = min(explained, 1.0)
        now = (1 - explained) / n + explained / total
        left = now * (2 * half_width / (high - low)) ** 2 - explained / total
        if left <= 0:
            return None
        labels = math.ceil((1 - explained) / left)
        return max(labels - n, 1) if labels <= total else None


def prediction_powered(
    labels: Values, judge: Values, judge_unlabelled: Values
) -> PredictionPowered:
    """The win rate according to people, from few labels and a judge's verdicts on many comparisons.

    theta = mean_n(Y) + l (mean_N(f_unlabelled) - mean_n(f_labelled)), with
    l = clip(Cov_n(Y, f) / ((1 + n/N) Var f), 0, 1) and
    variance Var_n(Y - l f) / n + l^2 Var(f) / N; Var f is over all n + N verdicts. The labelled
    comparisons must be a random sample of all: labels of comparisons that were chosen by the
    judge's verdicts say nothing about the others. The judge may be biased or soft.

    The interval takes the two terms of the variance apart: `score_interval` of the mean of Y - l f,
    a normal one for l mean_N(f), put together by their distances from theta. With l = 0 it is the
    score interval of the labels.

    Args:
        labels: Y, P(the model's answer is better) by people [n]: 1, 0, .5 for a tie, or the mean of
            several annotators.
        judge: f, the same by the judge on the same comparisons [n]; None or NaN for no verdict.
        judge_unlabelled: f on the comparisons without a label [N].

    Raises:
        ValueError: A value is outside [0, 1], a label is missing, lengths differ, or fewer than
            `FEWEST_LABELS` labels have a verdict of the judge.
    Source: Angelopoulos et al., PPI++, arXiv:2311.01453, for a mean; the interval of two parts is
        Zou and Donner's (2008) way of adding intervals.
    """
    y, f = probabilities(labels, name="labels"), verdicts(judge, name="judge")
    same_size(labels=y, judge=f)
    others = verdicts(judge_unlabelled, name="judge_unlabelled")
    known, known_others = ~np.isnan(f), ~np.isnan(others)
    y, f, others = y[known], f[known], others[known_others]
    missing = int((~known).sum() + (~known_others).sum())
    n, more = y.size, others.size
    if n < FEWEST_LABELS:
        raise ValueError(
            f"{n} labels with a verdict of the judge; an estimate needs {FEWEST_LABELS} or more"
        )
    everything = np.concatenate([f, others])
    variance_f, spread_y = float(everything.var(ddof=1)), float(y.var(ddof=1))
    together = float(np.cov(y, f)[0, 1])
    weight = 0.0
    if more and variance_f > 0:
        weight = min(max(together / ((1 + n / more) * variance_f), 0.0), 1.0)
    rest = y - weight * f
    theta = float(rest.mean()) + (weight * float(others.mean()) if weight else 0.0)
    of_judge = weight**2 * variance_f / more if weight else 0.0
    variance = float(rest.var(ddof=1)) / n + of_judge
    worth = n * spread_y / (n * variance) - n if variance > 0 else 0.0
    adds_nothing = worth < _LEAST_WORTH * n or not _goes_with(y, f)
    # Y - l f is in [-l, 1].
    low, high = score_interval((rest + weight) / (1 + weight))
    middle = float(((rest + weight) / (1 + weight)).mean())
    # The labels that l was fitted to lie closer to l f than others would.
    stretch = (1 + weight) * (math.sqrt((n - 1) / (n - 2) * (1 + 1 / (n - 3))) if weight else 1)
    below, above = stretch * (middle - low), stretch * (high - middle)
    shift = NORMAL_QUANTILE * math.sqrt(of_judge)
    interval = (
        100 * max(theta - math.hypot(below, shift), 0.0),
        100 * min(theta + math.hypot(above, shift), 1.0),
    )
    estimate = MetricValue(
        name="prediction_powered_win_rate",
        value=100 * min(max(theta, 0.0), 1.0),
        standard_error=100 * math.sqrt(variance),
        interval=interval,
        n=n,
        unit="%",
    )
    return PredictionPowered(
        estimate=estimate,
        labels_only=percentage("labels_win_rate", y),
        judge_only=percentage("judge_win_rate", everything),
        weight=weight,
        worth=0.0 if adds_nothing else worth,
        adds_nothing=adds_nothing,
        comparisons=n + more,
        missing=missing,
    )


def _goes_with(y: Array, f: Array) -> bool:
    """Return True if labels and verdicts are correlated above 0 beyond chance."""
    from scipy.special import stdtrit

    if y.var() == 0 or f.var() == 0:
        return False
    r = float(np.corrcoef(y, f)[0, 1])
    free = y.size - 2
    return r >= 1 or (r > 0 and r * math.sqrt(free / (1 - r**2)) > float(stdtrit(free, _SURE)))
