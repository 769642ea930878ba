"""Ranking accuracy: is the chosen completion likelier, and could it ideally be?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percent
from prefine.metrics.statistics.resampling import Resampling
from prefine.metrics.statistics.values import (
    Array,
    Bools,
    Groups,
    finite_values,
    refuse,
    same_length,
    same_size,
    verdicts,
)
from prefine.records import MetricValue

BETAS = (0.01, 0.1, 1.0, 5.0, 10.0)
"""The values that the paper sweeps."""


class IdealisedAccuracy(NamedTuple):
    """The ranking accuracy of the policy that would minimise the DPO loss exactly.

    Attributes:
        by_beta: The accuracy at each beta, in the order given.
        minimum: The least of these.
        median: Their median; of an even number the mean of the two in the middle.
        maximum: The greatest of these.
    """

    by_beta: tuple[tuple[float, MetricValue], ...]
    minimum: MetricValue
    median: MetricValue
    maximum: MetricValue


class FlipTable(NamedTuple):
    """Right and wrong rankings before and after training, in % of all pairs.

    Attributes:
        stayed_right: Right before and after.
        became_wrong: Right before, wrong after.
        became_right: Wrong before, right after.
        stayed_wrong: Wrong before and after.
        corrected: Of the pairs that were wrong before (`n` of them), those that are right after;
            None without any.
        broken: Of the pairs that were right before (`n` of them), those that are wrong after; None
            without any.
    """

    stayed_right: MetricValue
    became_wrong: MetricValue
    became_right: MetricValue
    stayed_wrong: MetricValue
    corrected: MetricValue | None
    broken: MetricValue | None


def ranking_accuracy(
    logp_chosen: npt.ArrayLike,
    logp_rejected: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
    name: str = "ranking_accuracy",
) -> MetricValue:
    """The share of pairs whose chosen completion is at least as likely as the rejected one, in %.

    Not reward accuracy, which compares log-ratios to a reference.

    Args:
        logp_chosen: Summed log-probability of each chosen completion [B], nats.
        logp_rejected: That of each rejected one [B].
        prompt_ids: Prompt of each pair [B].
        samples: Number of bootstrap samples of the standard error; the interval needs none.
        seed: Seed of the bootstrap.
        name: Name of the metric.

    Raises:
        ValueError: No pair, lengths that differ, or a number that is not finite.
    Source: arXiv:2405.19534, definition 2.1.
    """
    right = ranked_right(logp_chosen, logp_rejected)
    return percent(name, right, Resampling(samples, seed), prompt_ids)


def length_normalised_ranking_accuracy(
    logp_chosen: npt.ArrayLike,
    logp_rejected: npt.ArrayLike,
    chosen_tokens: npt.ArrayLike,
    rejected_tokens: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> MetricValue:
    """`ranking_accuracy` of the log-probabilities per token; in %.

    Args:
        logp_chosen: Summed log-probability of each chosen completion [B], nats.
        logp_rejected: That of each rejected one [B].
        chosen_tokens: Number of tokens of each chosen completion [B].
        rejected_tokens: That of each rejected one [B].
        prompt_ids: Prompt of each pair [B].
        samples: Number of bootstrap samples of the standard error; the interval needs none.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No pair, lengths that differ, a number that is not finite, or a completion
            without tokens.
    Source: arXiv:2405.19534.
    """
    lw, ll, w_tokens, l_tokens = same_length(
        {
            "logp_chosen": logp_chosen,
            "logp_rejected": logp_rejected,
            "chosen_tokens": chosen_tokens,
            "rejected_tokens": rejected_tokens,
        }
    )
    for name, tokens in (("chosen_tokens", w_tokens), ("rejected_tokens", l_tokens)):
        refuse(tokens < 1, tokens, "must be at least 1", name=name)
    name = "length_normalised_ranking_accuracy"
    return ranking_accuracy(
        lw / w_tokens, ll / l_tokens, prompt_ids, samples=samples, seed=seed, name=name
    )


def list_ranking_accuracy(
    logps: Sequence[npt.ArrayLike], *, samples: int = 2000, seed: int = 0
) -> MetricValue:
    """The share of prompts whose completions are all ranked as they should be, exactly; in %.

    A tie is not a ranking: with two completions this is `ranking_accuracy` but for ties.

    Args:
        logps: For each prompt the log-probabilities of its completions, best completion first [N >=
            2], nats.
        samples: Without effect, as nothing is drawn at random.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No prompt, one with fewer than two completions, or a number that is not finite.
    Source: arXiv:2405.19534.
    """
    right = []
    for index, raw in enumerate(logps):
        values = finite_values(raw, name=f"logps of prompt {index}")
        if values.size < 2:
            raise ValueError(
                f"logps of prompt {index}: a ranking needs at least two completions, got "
                f"{values.size}"
            )
        right.append(bool((np.diff(values) < 0).all()))
    return percent("list_ranking_accuracy", right, Resampling(samples, seed))


def idealised_ranking_accuracy(
    ref_chosen: npt.ArrayLike,
    ref_rejected: npt.ArrayLike,
    proportions: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    betas: Sequence[float] = BETAS,
    clip: float = 0.001,
    samples: int = 2000,
    seed: int = 0,
) -> IdealisedAccuracy:
    """The ranking accuracy of the exact optimum of DPO, at each beta; in %.

    The optimum ranks a pair right iff (rw - rl) + logit(alpha) / beta > 0.

    Args:
        ref_chosen: The reference's summed log-probability of each chosen completion [B], nats.
        ref_rejected: That of each rejected one [B].
        proportions: alpha, the share of raters who prefer the chosen one [B], in [0, 1].
        prompt_ids: Prompt of each pair [B].
        betas: The values of beta, each positive.
        clip: alpha is held in [clip, 1 - clip]: raters who agree would make the optimum infinite.
        samples: Number of bootstrap samples of the standard error; the interval needs none.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No pair, lengths that differ, a number that is not finite, a proportion outside
            [0, 1], no beta, one that is not positive, or a clip outside (0, 0.5).
    Source: arXiv:2405.19534, theorem 3.1 and corollary 3.3; betas and clip are the authors'.
    Deviation: the authors' code counts a ratio within .05 of 1 as a tie; here only > 0 is right, as
        in the paper.
    """
    rw, rl, alpha = same_length(
        {"ref_chosen": ref_chosen, "ref_rejected": ref_rejected, "proportions": proportions}
    )
    verdicts(alpha, name="proportions")
    if not betas or min(betas) <= 0:
        raise ValueError(f"betas must be positive and at least one, got {list(betas)}")
    if not 0 < clip < 0.5:
        raise ValueError(f"clip must be between 0 and 0.5, got {clip}")
    held = np.clip(alpha, clip, 1 - clip)
    logit = np.log(held) - np.log1p(-held)
    right = [(rw - rl) + logit / beta > 0 for beta in betas]

    def metric(name: str, values: npt.ArrayLike) -> MetricValue:
        full_name = f"idealised_ranking_accuracy_{name}"
        return percent(full_name, values, Resampling(samples, seed), prompt_ids)

    by_beta = tuple(
        (beta, metric(f"beta_{beta:g}", one)) for beta, one in zip(betas, right, strict=True)
    )
    ordered = sorted(right, key=lambda one: float(one.mean()))
    middle = (ordered[(len(ordered) - 1) // 2] * 1.0 + ordered[len(ordered) // 2]) / 2
    return IdealisedAccuracy(
        by_beta,
        metric("minimum", ordered[0]),
        metric("median", middle),
        metric("maximum", ordered[-1]),
    )


def flip_table(
    right_before: npt.ArrayLike,
    right_after: npt.ArrayLike,
    prompt_ids: Groups,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> FlipTable:
    """Which rankings training turned around, in %.

    Args:
        right_before: Whether each pair was ranked right before training [B], see `ranked_right`.
        right_after: Whether it is after training [B].
        prompt_ids: Prompt of each pair [B].
        samples: Number of bootstrap samples of the standard error; the interval needs none.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: No pair, lengths that differ, or a value that is neither true nor false.
    Source: arXiv:2405.19534, section 4.
    """
    given = same_length({"right_before": right_before, "right_after": right_after})
    for name, values in zip(("right_before", "right_after"), given, strict=True):
        refuse((values != 0) & (values != 1), values, "must be true or false", name=name)
    before, after = (values == 1 for values in given)
    same_size(right_before=before, prompt_ids=prompt_ids)
    resampling, groups = Resampling(samples, seed), np.asarray(prompt_ids)

    def within(name: str, of: Bools, which: Bools) -> MetricValue | None:
        return percent(name, which[of], resampling, groups[of]) if of.any() else None

    return FlipTable(
        percent("rankings_stayed_right", before & after, resampling, groups),
        percent("rankings_became_wrong", before & ~after, resampling, groups),
        percent("rankings_became_right", ~before & after, resampling, groups),
        percent("rankings_stayed_wrong", ~before & ~after, resampling, groups),
        within("wrong_rankings_corrected", ~before, after),
        within("right_rankings_broken", before, ~after),
    )


def ranked_right(logp_chosen: npt.ArrayLike, logp_rejected: npt.ArrayLike) -> Bools:
    """Return for each pair if its chosen completion is at least as likely as the other [B].

    Raises:
        ValueError: No pair, lengths that differ, or a number that is not finite.
    """
    chosen, rejected = same_length({"logp_chosen": logp_chosen, "logp_rejected": logp_rejected})
    return chosen >= rejected


def dpo_loss_threshold(
    ref_chosen: npt.ArrayLike, ref_rejected: npt.ArrayLike, *, beta: float
) -> Array:
    """The DPO loss of each pair [B] at and below which it is ranked right, nats.

    -log sigmoid(beta * c), c = rl - rw: the further the reference has it the wrong way, the less
    loss is allowed.

    Args:
        ref_chosen: The reference's summed log-probability of each chosen completion [B], nats.
        ref_rejected: That of each rejected one [B].
        beta: The loss's inverse temperature, positive.

    Raises:
        ValueError: No pair, lengths that differ, a number that is not finite, or a beta that is not
            positive.
    Source: arXiv:2405.19534, theorem 4.1.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    rw, rl = same_length({"ref_chosen": ref_chosen, "ref_rejected": ref_rejected})
    threshold: Array = np.logaddexp(0.0, -beta * (rl - rw))
    return threshold
