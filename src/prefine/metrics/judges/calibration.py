"""Calibration of a judge's probabilities, and cycles in its preferences."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import mean_value, percent
from prefine.metrics.statistics.resampling import Resampling, group_index, measured, selected
from prefine.metrics.statistics.values import Array, Groups, probabilities, refuse, same_size
from prefine.records import MetricValue


class ReliabilityBin(NamedTuple):
    """Verdicts whose probability lies in one range.

    Attributes:
        low: Lower end of the range.
        high: Upper end; it belongs to the range in the last bin only.
        mean_probability: Mean of the stated probabilities, in %.
        frequency: Frequency of the event, in %.
    """

    low: float
    high: float
    mean_probability: float
    frequency: MetricValue


class CyclicTriads(NamedTuple):
    """Three answers of which each loses to another one of them.

    Attributes:
        rate: Cyclic ones among the strict triads, in %; None where no triad is strict.
        cyclic: How many.
        strict: Triads whose three duels all have a winner.
        tied: Triads with all three duels but a tie among them. They are neither cyclic nor not, and
            are left out.
        unmet: Triads that lack a duel.
    """

    rate: MetricValue | None
    cyclic: int
    strict: int
    tied: int
    unmet: int


def expected_calibration_error(
    p: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    bins: int = 10,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> MetricValue:
    """The expected calibration error, sum_b n_b / n |mean p - mean y|, in points of 100.

    Args:
        p: The judge's probability of an event [n], such as that answer 1 is better; leave failures
            out.
        outcomes: Whether it was so [n], in [0, 1]; 0.5 where the truth is a tie.
        bins: Number of ranges of equal width.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each verdict [n], to resample prompts; None makes each verdict its
            own.

    Raises:
        ValueError: No verdict, lengths that differ, a value outside [0, 1], or bins below 1.
    Source: Guo et al., arXiv:1706.04599, eq. 5, for the probability of one event.
    """
    chance, truth = _pairs(p, outcomes, prompt_ids)
    index = _bins(chance, bins)
    group = group_index(np.arange(chance.size) if prompt_ids is None else prompt_ids)
    counts = np.bincount(group).astype(np.float64)
    size = len(counts)
    gaps = np.bincount(group * bins + index, weights=chance - truth, minlength=size * bins)
    gaps = gaps.reshape(size, bins)

    def distance(weights: Array) -> Array:
        """The error of each weighting of the prompts [s]."""
        total: Array = np.abs(weights @ gaps).sum(axis=1) / (weights @ counts)
        return total

    return measured(
        "expected_calibration_error",
        float(distance(np.ones((1, size)))[0]),
        Resampling(samples, seed).draws(size, distance),
        n=chance.size,
        unit="%",
        scale=100,
    )


def reliability_curve(
    p: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    bins: int = 10,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> list[ReliabilityBin]:
    """The frequency of an event by its stated probability; ranges without a verdict are left out.

    Args and Raises: as for `expected_calibration_error`.
    """
    chance, truth = _pairs(p, outcomes, prompt_ids)
    index = _bins(chance, bins)
    curve = []
    for b in range(bins):
        inside = index == b
        if inside.any():
            groups = selected(prompt_ids, inside)
            frequency = percent("frequency", truth[inside], Resampling(samples, seed), groups)
            curve.append(
                ReliabilityBin(
                    b / bins, (b + 1) / bins, 100 * float(chance[inside].mean()), frequency
                )
            )
    return curve


def brier_score(
    p: npt.ArrayLike,
    outcomes: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> MetricValue:
    """The mean squared distance of p and outcome.

    0 is perfect; always saying .5 gets 0.25 on hard outcomes.

    Args and Raises: as for `expected_calibration_error`.
    Source: Brier 1950.
    """
    chance, truth = _pairs(p, outcomes, prompt_ids)
    return mean_value(
        "brier_score", (chance - truth) ** 2, samples=samples, seed=seed, groups=prompt_ids
    )


def cyclic_triads(
    p_row_better: npt.ArrayLike, *, samples: int = 2000, seed: int = 0
) -> CyclicTriads:
    """The share of triads of duels that contradict every order, over N prompts.

    In a tournament without ties and gaps this is C(M, 3) - sum_i C(s_i, 2), with s_i the wins of
    completion i. Triads with a tie are left out and counted, since a tie fits every order.

    Args:
        p_row_better: P(row is better than column) of each prompt [N, M, M], or of one [M, M]; NaN
            for no duel. Only one of two mirrored cells is needed; where both are there, they must
            add up to 1.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Not square, fewer than three completions, a value outside [0, 1], or mirrored
            cells that disagree.
    Source: Kendall and Babington Smith 1940.
    """
    wins = _signs(np.asarray(p_row_better, dtype=np.float64))
    m = wins.shape[-1]
    met = (~np.isnan(wins)).astype(np.float64)
    strict_met = np.where(np.isnan(wins), 0.0, np.abs(wins))
    beats = np.where(wins > 0, 1.0, 0.0)
    # A closed walk of three steps visits a triad three times in each direction.
    cyclic = np.trace(beats @ beats @ beats, axis1=1, axis2=2) / 3
    strict = np.trace(strict_met @ strict_met @ strict_met, axis1=1, axis2=2) / 6
    complete = np.trace(met @ met @ met, axis1=1, axis2=2) / 6
    total = len(wins) * m * (m - 1) * (m - 2) // 6
    counts = [round(float(part.sum())) for part in (cyclic, strict, complete)]
    rate = None
    if counts[1]:
        used = strict > 0
        draws = Resampling(samples, seed).draws(
            int(used.sum()), lambda weights: (weights @ cyclic[used]) / (weights @ strict[used])
        )
        share = counts[0] / counts[1]
        rate = measured("cyclic_triads", share, draws, n=counts[1], unit="%", scale=100)
    return CyclicTriads(rate, counts[0], counts[1], counts[2] - counts[1], total - counts[2])


def _pairs(
    p: npt.ArrayLike, outcomes: npt.ArrayLike, prompt_ids: Groups | None
) -> tuple[Array, Array]:
    chance, truth = probabilities(p, name="p"), probabilities(outcomes, name="outcomes")
    same_size(p=chance, outcomes=truth, prompt_ids=prompt_ids)
    return chance, truth


def _bins(p: Array, bins: int) -> npt.NDArray[np.intp]:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    return np.minimum((p * bins).astype(np.intp), bins - 1)


def _signs(p: Array) -> Array:
    """1 where row beats column, -1 where it loses, 0 a tie, NaN no duel or diagonal [N, M, M]."""
    if p.ndim == 2:
        p = p[None]
    if p.ndim != 3 or p.shape[1] != p.shape[2] or p.shape[1] < 3:
        raise ValueError(
            f"p_row_better must be [N, M, M] with M of at least 3, got shape {p.shape}"
        )
    refuse((p < 0) | (p > 1), p, "must be in [0, 1]", name="p_row_better")
    mirrored = 1 - p.transpose(0, 2, 1)
    off = ~np.eye(p.shape[1], dtype=np.bool_)
    both = np.argwhere((np.abs(p - mirrored) > 1e-9) & off)
    if len(both):
        raise ValueError(
            f"cells at {both[0].tolist()} and mirrored do not add up to 1; give the mean of both "
            "orders, and its mirror"
        )
    filled = np.where(np.isnan(p), mirrored, p)
    signs: Array = np.where(off, np.sign(filled - 0.5), np.nan)
    return signs
