"""Likelihood displacement: where the log-ratios of chosen and rejected completions went, not only their mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.rewards.model_rewards import log_ratios, same_length
from prefine.metrics.statistics.intervals import Array, Groups, mean_value, percentage
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
    """How far training moved the completions of the pairs.

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
    """Quantiles of a, c and D, and how often the chosen completion fell, and fell out of the budget.

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

    def spread(name: str, values: Array) -> Spread:
        mean = mean_value(
            f"{name}_mean", values, samples=samples, seed=seed, unit="nats", groups=prompt_ids
        )
        return Spread(
            mean,
            quantile_values(
                name, values, prompt_ids, quantiles=quantiles, samples=samples, seed=seed
            ),
        )

    return Displacement(
        spread("chosen_log_ratio", a),
        spread("rejected_log_ratio", c),
        spread("margin", a - c),
        percentage("chosen_fell", a < 0, samples=samples, seed=seed, groups=prompt_ids),
        percentage(
            "chosen_fell_beyond_budget", a < -delta, samples=samples, seed=seed, groups=prompt_ids
        ),
    )


def quantile_values(
    name: str,
    values: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    quantiles: Sequence[float],
    samples: int,
    seed: int,
) -> tuple[MetricValue, ...]:
    """Quantiles over pairs as metrics NAME_q5, …, nats; standard error and interval are a bootstrap over prompts.

    A quantile that falls between two values is their middle, so that the median of two is their
    mean and copies of all pairs change nothing.

    Args:
        name: Of what.
        values: [B], nats.
        prompt_ids: Prompt of each value [B].
        quantiles: Which, each in [0, 1].
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No value, one that is not finite, lengths that differ, no quantile or one
            outside [0, 1].
    """
    (array,) = same_length({name: values})
    if len(prompt_ids) != array.size:
        raise ValueError(f"{array.size} values, but {len(prompt_ids)} groups")
    if not quantiles or min(quantiles) < 0 or max(quantiles) > 1:
        raise ValueError(f"quantiles must be in [0, 1] and at least one, got {list(quantiles)}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    order = np.argsort(array, kind="stable")
    ranked = array[order]
    _, group = np.unique(np.asarray(prompt_ids), return_inverse=True)
    prompts = int(group.max()) + 1
    wanted = np.asarray(quantiles, dtype=np.float64)
    found = _quantiles(ranked, np.ones(array.size, dtype=np.int64), wanted)
    labels = [f"{name}_q{100 * q:g}" for q in wanted]
    if prompts < 2:
        return tuple(
            MetricValue(name=label, value=float(value), n=array.size, unit="nats")
            for label, value in zip(labels, found, strict=True)
        )
    rng = np.random.default_rng(seed)
    drawn = np.empty((samples, wanted.size))
    for sample in range(samples):
        times = np.bincount(rng.integers(0, prompts, size=prompts), minlength=prompts)
        drawn[sample] = _quantiles(ranked, times[group[order]], wanted)
    errors = drawn.std(axis=0, ddof=1)
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    return tuple(
        MetricValue(
            name=label,
            value=float(found[i]),
            standard_error=float(errors[i]),
            interval=(float(low[i]), float(high[i])),
            n=array.size,
            unit="nats",
        )
        for i, label in enumerate(labels)
    )


def _quantiles(ranked: Array, times: npt.NDArray[np.int64], wanted: Array) -> Array:
    """Quantiles of ascending values, each there so many times: the middle of both where one falls between two."""
    reached = np.cumsum(times)
    # Whole numbers of values are compared; .05 * 20 must be 1 though its product may not be.
    target = np.round(wanted * reached[-1], 9)
    last = int(np.flatnonzero(times)[-1])
    lower = np.searchsorted(reached, np.maximum(target, 1e-6), side="left")
    upper = np.minimum(np.searchsorted(reached, target, side="right"), last)
    middle: Array = (ranked[np.minimum(lower, last)] + ranked[upper]) / 2
    return middle
