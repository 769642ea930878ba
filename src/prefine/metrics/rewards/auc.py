"""The area under the ROC curve: how often a good answer has the greater reward than a bad one."""

import math

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.resampling import by_group
from prefine.metrics.statistics.values import Array, Groups, same_length
from prefine.records import MetricValue


def reward_auc(
    rewards: npt.ArrayLike,
    desirable: npt.ArrayLike,
    prompt_ids: Groups | None = None,
    *,
    name: str = "reward_auc",
) -> MetricValue:
    """The share of comparisons of a good answer with a bad one that the good one wins; in %.

    Equal rewards count half. The standard error is DeLong's (Biometrics 1988), with the answers of
    a prompt varying together; the interval is symmetric in the logit. There is neither where the
    good or the bad answers are of fewer than two prompts, and no interval where all comparisons
    come out alike.

    Args:
        rewards: Of each answer [n], in any unit; only their order matters.
        desirable: True, or 1, for each good answer [n].
        prompt_ids: Prompt of each answer [n]; None makes every answer its own.
        name: Name of the metric.

    Raises:
        ValueError: Lengths that differ, a reward that is not finite, a label that is neither 0 nor
            1, or all labels alike.
    """
    values, labels = same_length({"rewards": rewards, "desirable": desirable})
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("desirable: a label must be True or False (1 or 0)")
    good = labels == 1
    if good.all() or not good.any():
        raise ValueError("desirable: all labels are alike, so that there is nothing to compare")
    won, lost = _below(values[good], values[~good]), _below(values[~good], values[good])
    area = float(won.mean())
    groups = np.arange(len(values)) if prompt_ids is None else np.asarray(prompt_ids)
    error = _error(won - area, lost - lost.mean(), groups, good)
    interval = None
    if error is not None and 0 < area < 1:
        logit, width = math.log(area / (1 - area)), 1.959964 * error / (area * (1 - area))
        low, high = (100 / (1 + math.exp(-(logit + sign * width))) for sign in (-1, 1))
        interval = (low, high)
    return MetricValue(
        name=name,
        value=100 * area,
        standard_error=None if error is None else 100 * error,
        interval=interval,
        n=len(values),
        unit="%",
    )


def _below(values: Array, others: Array) -> Array:
    """The share of others below each value, equal ones counting half."""
    ordered = np.sort(others)
    sides = [np.searchsorted(ordered, values, side=side) for side in ("left", "right")]
    found: Array = (sides[0] + sides[1]) / (2 * len(others))
    return found


def _error(
    won: Array, lost: Array, groups: npt.NDArray[np.generic], good: npt.NDArray[np.bool_]
) -> float | None:
    """DeLong's standard error from the deviations of both sides' shares."""
    found = np.empty(len(good))
    for side, deviations, sign in ((good, won, 1), (~good, lost, -1)):
        count = len(np.unique(groups[side]))
        if count < 2:
            return None
        found[side] = sign * deviations * math.sqrt(count / (count - 1)) / len(deviations)
    sums, _ = by_group(found, groups)
    return float(np.linalg.norm(sums))
