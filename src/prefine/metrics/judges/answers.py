"""What a judge's own answers say about it, no labels needed."""

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Groups, Values, percentage, probabilities
from prefine.metrics.win_rates.win_rates import verdicts
from prefine.records import MetricValue


def first_slot_rate(
    p_first: npt.ArrayLike, *, samples: int = 2000, seed: int = 0, prompt_ids: Groups | None = None
) -> MetricValue:
    """How often the judge prefers the completion that is shown first, a tie counting half; in %.

    50 is no preference if both slots hold equally good completions, as when both orders of every
    pair were asked.

    Args:
        p_first: P(first is better) of each judgment [n]; leave failed ones out.
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each judgment [n], to resample prompts; None if there is one judgment
            per prompt.

    Raises:
        ValueError: No judgment, or a value that is not in [0, 1].
    """
    p = probabilities(p_first, name="p_first")
    return percentage(
        "first_slot_rate", _preference(p) / 2 + 0.5, samples=samples, seed=seed, groups=prompt_ids
    )


def swap_consistency(
    p_first: Values,
    p_first_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> MetricValue:
    """How often both orders of a pair have the same winner, two ties being the same; in %.

    Pairs with a failed call in one of the orders are left out: `n` says how many were not.

    Args:
        p_first: P(first is better) of each pair in one order [n]; None or NaN for no verdict.
        p_first_swapped: The same pairs with the two completions swapped [n].
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each pair [n], to resample prompts; None if there is one pair per
            prompt.

    Raises:
        ValueError: The two differ in length, a value is outside [0, 1], or no pair has both
            verdicts.
    """
    one, other = (
        verdicts(p_first, name="p_first"),
        verdicts(p_first_swapped, name="p_first_swapped"),
    )
    if one.size != other.size or (prompt_ids is not None and len(prompt_ids) != one.size):
        raise ValueError("p_first, p_first_swapped and prompt_ids must have the same length")
    answered = ~(np.isnan(one) | np.isnan(other))
    if not answered.any():
        raise ValueError("no pair has a verdict in both orders, so its consistency does not exist")
    same = _preference(one[answered]) == -_preference(other[answered])
    groups = None if prompt_ids is None else np.asarray(prompt_ids)[answered]
    return percentage("swap_consistency", same, samples=samples, seed=seed, groups=groups)


def _preference(p_first: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 for the first, -1 for the second, 0 for a tie."""
    return np.sign(p_first - 0.5)
