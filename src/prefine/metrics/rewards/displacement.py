"""Likelihood displacement: quantiles of the log-ratios of chosen and rejected completions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.rewards.accuracy import log_ratios
from prefine.metrics.statistics.intervals import mean_value, percent
from prefine.metrics.statistics.resampling import Resampling, group_index, measured
from prefine.metrics.statistics.values import Array, Groups, finite_values, same_size
from prefine.records import MetricValue

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Spread(NamedTuple):
    """Mean and quantiles of one log-ratio over pairs, nats.

    Attributes:
        mean: Its mean.
        quantiles: Its quantiles, in the order asked for.
    """

    mean: MetricValue
    quantiles: tuple[MetricValue, ...]


class Displacement(NamedTuple):
    """The log-ratios of the pairs' completions after training.

    Attributes:
        chosen: a = lw - rw, the chosen completions' log-ratios.
        rejected: c = ll - rl, the rejected ones'.
        margin: D = a - c.
        chosen_fell: Share of pairs with a < 0, in %.
        chosen_fell_beyond: Share of pairs with a < -delta, in %.
    """

    chosen: Spread
    rejected: Spread
    margin: Spread
    chosen_fell: MetricValue
    chosen_fell_beyond: MetricValue


def displacement(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    delta: float,
    quantiles: Sequence[float] = QUANTILES,
    samples: int = 2000,
    seed: int = 0,
) -> Displacement:
    """Quantiles of a, c and D, and the shares of chosen completions that fell, or left the budget.

    Args:
        policy_chosen: Summed log-probability of the chosen completion [B], nats.
        policy_rejected: That of the rejected one [B].
        ref_chosen: That of the chosen one by the reference, or by the policy at step 0 [B].
        ref_rejected: The same of the rejected one [B].
        prompt_ids: Prompt of each pair [B].
        delta: The budget: how far a chosen log-probability may fall, nats per completion, at least
            0.
        quantiles: Which, each in [0, 1].
        samples: Number of bootstrap samples, over prompts.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No pair, lengths that differ, a number that is not finite, a negative delta, or
            a quantile outside [0, 1].
    """
    if not delta >= 0:
        raise ValueError(f"delta must be at least 0, got {delta}")
    a, c = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)

    resampling = Resampling(samples, seed)

    def spread(name: str, values: Array) -> Spread:
        """Mean and quantiles of one log-ratio."""
        mean = mean_value(
            f"{name}_mean", values, samples=samples, seed=seed, unit="nats", groups=prompt_ids
        )
        return Spread(mean, quantile_values(name, values, prompt_ids, quantiles, resampling))

    return Displacement(
        spread("chosen_log_ratio", a),
        spread("rejected_log_ratio", c),
        spread("margin", a - c),
        percent("chosen_fell", a < 0, resampling, prompt_ids),
        percent("chosen_fell_beyond_budget", a < -delta, resampling, prompt_ids),
    )


def quantile_values(
    name: str,
    values: npt.ArrayLike,
    prompt_ids: Groups,
    quantiles: Sequence[float],
    resampling: Resampling,
) -> tuple[MetricValue, ...]:
    """Quantiles over pairs as metrics NAME_q5, …, nats, with a bootstrap over prompts.

    A quantile that falls between two values is their middle, so that the median of two is their
    mean and copies of all pairs change nothing.

    Args:
        name: Of what.
        values: [B], nats.
        prompt_ids: Prompt of each value [B].
        quantiles: Which, each in [0, 1].
        resampling: The bootstrap samples.

    Raises:
        ValueError: No value, one that is not finite, lengths that differ, no quantile or one
            outside [0, 1].
    """
    array = finite_values(values, name=name)
    same_size(values=array, prompt_ids=prompt_ids)
    if not quantiles or min(quantiles) < 0 or max(quantiles) > 1:
        raise ValueError(f"quantiles must be in [0, 1] and at least one, got {list(quantiles)}")
    order = np.argsort(array, kind="stable")
    ranked, group = array[order], group_index(prompt_ids)[order]
    wanted = np.asarray(quantiles, dtype=np.float64)
    found = _quantiles(ranked, np.ones(array.size), wanted)
    draws = resampling.draws(
        int(group.max()) + 1,
        lambda weights: np.stack([_quantiles(ranked, times[group], wanted) for times in weights]),
    ).reshape(-1, wanted.size)
    return tuple(
        measured(f"{name}_q{100 * q:g}", float(value), drawn, n=array.size, unit="nats")
        for q, value, drawn in zip(wanted, found, draws.T, strict=True)
    )


def _quantiles(ranked: Array, times: Array, wanted: Array) -> Array:
    """Quantiles of ascending values, each of which counts so many times.

    Where one falls between two values it is the middle of both.
    """
    reached = np.cumsum(times)
    # Whole numbers of values are compared; .05 * 20 must be 1 though its product may not be.
    target = np.round(wanted * reached[-1], 9)
    last = int(np.flatnonzero(times)[-1])
    lower = np.searchsorted(reached, np.maximum(target, 1e-6), side="left")
    upper = np.minimum(np.searchsorted(reached, target, side="right"), last)
    middle: Array = (ranked[np.minimum(lower, last)] + ranked[upper]) / 2
    return middle
