"""Two raters of the same pairs: how often they agree, and Cohen's kappa."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Array, Groups, Values, percentage
from prefine.metrics.statistics.resampling import drawn_prompts, spread
from prefine.metrics.win_rates.win_rates import verdicts
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
    if one.size != other.size or (prompt_ids is not None and len(prompt_ids) != one.size):
        raise ValueError(
            f"{one.size} verdicts of one rater, {other.size} of the other; one per pair, and a "
            "prompt id"
        )
    known = ~(np.isnan(one) | np.isnan(other))
    if not known.any():
        raise ValueError("no pair has a verdict of both raters")
    choice, choice_other = (np.sign(p[known] - 0.5).astype(np.intp) + 1 for p in (one, other))
    groups = np.arange(known.sum()) if prompt_ids is None else np.asarray(prompt_ids)[known]
    agreement = percentage(
        "agreement",
        choice == choice_other,
        samples=samples,
        seed=seed,
        groups=None if prompt_ids is None else groups,
    )
    kappa = _kappa_value(choice, choice_other, groups, samples, seed)
    return Agreement(agreement, kappa, int((~known).sum()))


def _kappa_value(
    choice: npt.NDArray[np.intp],
    other: npt.NDArray[np.intp],
    groups: npt.NDArray[np.generic],
    samples: int,
    seed: int,
) -> MetricValue | None:
    _, group = np.unique(groups, return_inverse=True)
    size = int(group.max()) + 1
    cell = (group * _CHOICES + choice) * _CHOICES + other
    tables = (
        np.bincount(cell, minlength=size * _CHOICES**2)
        .reshape(size, _CHOICES**2)
        .astype(np.float64)
    )
    (value,) = _kappa(tables.sum(axis=0)[None])
    if np.isnan(value):
        return None
    error, interval = None, None
    if size > 1:
        draws = np.concatenate(
            [_kappa(block @ tables) for block in drawn_prompts(size, samples=samples, seed=seed)]
        )
        # A sample of one single choice has none.
        if not np.isnan(draws).any():
            error, interval = spread(draws)
    return MetricValue(
        name="cohen_kappa",
        value=float(value),
        standard_error=error,
        interval=interval,
        n=choice.size,
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
