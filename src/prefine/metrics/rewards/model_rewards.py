"""Reward accuracy, twice: of the score that a loss optimised, and of the log-ratio to the reference."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.rewards.accuracy import reward_accuracy
from prefine.metrics.statistics.intervals import Groups, finite_values, percentage
from prefine.records import MetricValue


class RewardAccuracies(NamedTuple):
    """How often two rewards of one model prefer the chosen completion, each by its own name.

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


def log_ratio_margins(
    policy_chosen: npt.ArrayLike,
    policy_rejected: npt.ArrayLike,
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
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
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
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
    """The accuracy of the optimised score and of the log-ratio, in %, prompts resampled; a margin of 0 counts half.

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
    return RewardAccuracies(
        reward_accuracy(
            optimised, prompt_ids, samples=samples, seed=seed, name=f"{score}_accuracy"
        ),
        reward_accuracy(ratio, prompt_ids, samples=samples, seed=seed, name="log_ratio_accuracy"),
        percentage(
            "same_order",
            np.sign(optimised) == np.sign(ratio),
            samples=samples,
            seed=seed,
            groups=prompt_ids,
        ),
    )


def same_length(given: dict[str, npt.ArrayLike]) -> list[npt.NDArray[np.float64]]:
    """Each array as finite floats [B], all of one length.

    Raises:
        ValueError: One is empty, not one-dimensional or not finite, or two differ in length.
    """
    arrays = {name: finite_values(values, name=name) for name, values in given.items()}
    first, *others = arrays
    for name in others:
        if arrays[name].size != arrays[first].size:
            raise ValueError(
                f"{arrays[first].size} values in {first}, but {arrays[name].size} in {name}"
            )
    return list(arrays.values())
