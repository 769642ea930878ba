"""Two raters of the same pairs: how often they agree, and Cohen's kappa."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percent
from prefine.metrics.statistics.resampling import (
    NO_DRAWS,
    Resampling,
    group_index,
    measured,
    selected,
)
from prefine.metrics.statistics.values import Array, Groups, Values, same_size, verdicts
from prefine.records import MetricValue

_CHOICES = 3


class Agreement(NamedTuple):
    """Two raters on the pairs that both have a verdict on.

    Attributes:
        agreement: How often they name the same winner, two ties being the same; in %.
        kappa: Cohen's kappa, 1 for full agreement and 0 for what their habits alone would give;
            None where both always say the same one thing, so that it does not exist.
        missing: Pairs that one of them has no verdict on.
    """

    agreement: MetricValue
    kappa: MetricValue | None
    missing: int


def rater_agreement(
    p_one: Values,
    p_one_other: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> Agreement:
    """The agreement of two judges, of a judge and labels, or of a judge's two orders.

    Labels 1 and 2 are given as 1.0 and 0.0; the verdicts of the swapped order as P(answer 1 is
    better), too.

    Args:
        p_one: P(answer 1 is better) by one rater [n]; .5 a tie, None or NaN no verdict.
        p_one_other: The same by the other rater [n].
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each pair [n], to resample prompts; None if there is one pair per
            prompt.

    Raises:
        ValueError: Lengths differ, a verdict is outside [0, 1], or no pair has a verdict of both.
    Source: Cohen 1960, with the three categories answer 1, answer 2 and tie.
    """
    one, other = verdicts(p_one, name="p_one"), verdicts(p_one_other, name="p_one_other")
    same_size(p_one=one, p_one_other=other, prompt_ids=prompt_ids)
    known = ~np.isnan(one + other)
    if not known.any():
        raise ValueError("no pair has a verdict of both raters")
    choice, choice_other = (np.sign(p[known] - 0.5).astype(np.intp) + 1 for p in (one, other))
    resampling, groups = Resampling(samples, seed), selected(prompt_ids, known)
    return Agreement(
        percent("agreement", choice == choice_other, resampling, groups),
        _kappa_value(choice * _CHOICES + choice_other, groups, resampling),
        int((~known).sum()),
    )


def _kappa_value(
    cell: npt.NDArray[np.intp], groups: Groups | None, resampling: Resampling
) -> MetricValue | None:
    """Kappa of the pairs' cells in the table of both raters' choices [n]."""
    group = np.arange(cell.size) if groups is None else group_index(groups)
    size, cells = int(group.max()) + 1, _CHOICES**2
    counts = np.bincount(group * cells + cell, minlength=size * cells)
    tables = counts.reshape(size, cells).astype(np.float64)
    (value,) = _kappa(tables.sum(axis=0)[None])
    if np.isnan(value):
        return None
    draws = resampling.draws(size, lambda weights: _kappa(weights @ tables))
    # A sample in which both raters always make one single choice has no kappa.
    return measured(
        "cohen_kappa", float(value), NO_DRAWS if np.isnan(draws).any() else draws, n=cell.size
    )


def _kappa(tables: Array) -> Array:
    """Kappa of tables of counts [S, 9]; NaN where it does not exist."""
    share = tables.reshape(-1, _CHOICES, _CHOICES) / tables.sum(axis=1)[:, None, None]
    same = np.trace(share, axis1=1, axis2=2)
    chance = (share.sum(axis=2) * share.sum(axis=1)).sum(axis=1)
    left = 1 - chance
    kappa: Array = np.where(
        left > 1e-12, (same - chance) / np.where(left > 1e-12, left, 1.0), np.nan
    )
    return kappa
