"""The accuracy of rewards, or of plain length, on preference pairs."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percent
from prefine.metrics.statistics.resampling import Resampling
from prefine.metrics.statistics.values import Array, Groups, finite_values, same_length
from prefine.records import MetricValue


class RewardAccuracies(NamedTuple):
    """The accuracies of two rewards of one model, each by its own name.

    Attributes:
        optimised: Accuracy of the score that the loss optimised, such as SimPO's mean
            log-probability.
        log_ratio: Accuracy of the log-ratio to the reference, the reward that "reward accuracy"
            means elsewhere.
        same_order: How often both order a pair alike, two ties being the same.
    """

    optimised: MetricValue
    log_ratio: MetricValue
    same_order: MetricValue


def reward_accuracy(
    margins: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
    name: str = "reward_accuracy",
) -> MetricValue:
    """The share of pairs with a positive margin, a margin of 0 counting half; in %.

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
    return percent(name, right, Resampling(samples, seed), prompt_ids)


def longer_is_better(
    chosen_lengths: npt.ArrayLike,
    rejected_lengths: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> MetricValue:
    """The accuracy of always preferring the longer completion, ties half, in %.

    It is the baseline of `reward_accuracy`.

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
    chosen, rejected = same_length(
        {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    )
    return reward_accuracy(
        chosen - rejected, prompt_ids, samples=samples, seed=seed, name="longer_is_better"
    )


def log_ratio_margins(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
) -> Array:
    """D = (lw - rw) - (ll - rl), the margin of each pair [B], nats.

    Args:
        policy_chosen: Summed log-probability of the chosen completion [B], nats.
        policy_rejected: That of the rejected one [B].
        ref_chosen: The reference's of the chosen one [B].
        ref_rejected: The reference's of the rejected one [B].

    Raises:
        ValueError: No pair, lengths that differ, or a number that is not finite.
    """
    chosen, rejected = log_ratios(policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    return chosen - rejected


def log_ratios(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
) -> tuple[Array, Array]:
    """(lw - rw, ll - rl), the log-ratios of the chosen and of the rejected completion [B], nats.

    Args and Raises: as for `log_ratio_margins`.
    """
    given = {
        "policy_chosen": policy_chosen,
        "policy_rejected": policy_rejected,
        "ref_chosen": ref_chosen,
        "ref_rejected": ref_rejected,
    }
    lw, ll, rw, rl = same_length(given)
    return lw - rw, ll - rl


def reward_accuracies(
    optimised_margins: npt.ArrayLike,
    log_ratio_margins: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    score: str,
    samples: int = 2000,
    seed: int = 0,
) -> RewardAccuracies:
    """The accuracy of the optimised score and of the log-ratio, in %; a margin of 0 counts half.

    A loss that does not optimise the log-ratio can raise one and lower the other: neither stands
    for both.

    Args:
        optimised_margins: Chosen minus rejected optimised score of each pair [B]; only the sign
            matters.
        log_ratio_margins: Chosen minus rejected log-ratio of each pair [B], see the function of
            this name.
        prompt_ids: Prompt of each pair [B].
        score: What the optimised score is called; the metric is SCORE_accuracy.
        samples: Number of bootstrap samples of the standard error; the interval needs none.
        seed: Seed of the bootstrap.

    Returns: Metrics SCORE_accuracy, log_ratio_accuracy and same_order.

    Raises:
        ValueError: No pair, lengths that differ, a margin that is not finite, or a score named
            log_ratio.
    """
    if score == "log_ratio":
        raise ValueError("score: 'log_ratio' is the name of the other one")
    optimised, ratio = same_length(
        {"optimised_margins": optimised_margins, "log_ratio_margins": log_ratio_margins}
    )
    same_order = np.sign(optimised) == np.sign(ratio)
    return RewardAccuracies(
        reward_accuracy(
            optimised, prompt_ids, samples=samples, seed=seed, name=f"{score}_accuracy"
        ),
        reward_accuracy(ratio, prompt_ids, samples=samples, seed=seed, name="log_ratio_accuracy"),
        percent("same_order", same_order, Resampling(samples, seed), prompt_ids),
    )
