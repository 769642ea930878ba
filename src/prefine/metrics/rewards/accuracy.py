"""How often the implicit reward, or plain length, prefers the chosen completion."""

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import Groups, finite_values, percentage
from prefine.records import MetricValue


def reward_accuracy(
    margins: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
    name: str = "reward_accuracy",
) -> MetricValue:
    """The share of pairs with a positive margin, a margin of 0 counting half; in %, prompts resampled.

    Args:
        margins: Chosen minus rejected implicit reward of each pair [B]; only the sign matters.
        prompt_ids: Prompt of each pair [B].
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        name: Name of the metric.

    Raises:
        ValueError: No pair, lengths that differ, or a margin that is not finite.
    """
    right = (np.sign(finite_values(margins, name="margins")) + 1) / 2
    return percentage(name, right, samples=samples, seed=seed, groups=prompt_ids)


def longer_is_better(
    chosen_lengths: npt.ArrayLike,
    rejected_lengths: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> MetricValue:
    """The accuracy of always preferring the longer completion, the baseline of `reward_accuracy`; ties half, in %.

    Args:
        chosen_lengths: Length of each chosen completion [B], in any unit.
        rejected_lengths: Length of each rejected completion [B], in the same unit.
        prompt_ids: Prompt of each pair [B].
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No pair, lengths that differ in number, or one that is not finite.
    """
    chosen = finite_values(chosen_lengths, name="chosen_lengths")
    rejected = finite_values(rejected_lengths, name="rejected_lengths")
    if chosen.size != rejected.size:
        raise ValueError(f"{chosen.size} chosen lengths, but {rejected.size} rejected ones")
    return reward_accuracy(
        chosen - rejected, prompt_ids, samples=samples, seed=seed, name="longer_is_better"
    )
