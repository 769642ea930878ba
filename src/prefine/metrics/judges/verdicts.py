"""A judge's verdicts: slot preference, consistency over both orders, accuracy on labels.

With labels, verdicts are P(answer 1 is better), whichever answer was shown first: .5 a tie, None or
NaN no verdict. The winner is the likelier answer.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.statistics.intervals import percent
from prefine.metrics.statistics.resampling import Resampling, selected
from prefine.metrics.statistics.values import (
    Array,
    Groups,
    Values,
    finite_values,
    probabilities,
    refuse,
    same_size,
    verdicts,
)
from prefine.records import MetricValue


class LabelledAccuracy(NamedTuple):
    """The share of all pairs whose winner is the label, in %; a tie or no verdict is not.

    Attributes:
        original: With answer 1 shown first.
        swapped: With answer 2 shown first.
        mean: Over both orders.
        both: Right in both orders.
    """

    original: MetricValue
    swapped: MetricValue
    mean: MetricValue
    both: MetricValue


class OrderAgreement(NamedTuple):
    """The share of pairs with the same winner in both orders, in %.

    Attributes:
        all_pairs: Of all pairs, no verdict in both orders being the same, as LLMBar counts.
        answered: Of the pairs with a verdict in both orders: `swap_consistency`.
    """

    all_pairs: MetricValue
    answered: MetricValue


class SlotPreference(NamedTuple):
    """The judge's preference for a slot, in %.

    Attributes:
        pick_first: (P(the first slot wins, original order) + P(the first slot wins, swapped order))
            / 2, of all pairs.
        first_slot_rate: Of the judgments with a verdict, a tie counting half.
        first_twice: Pairs for which the first slot wins in both orders, of all pairs.
        second_twice: Pairs for which the second slot does.
    """

    pick_first: MetricValue
    first_slot_rate: MetricValue
    first_twice: MetricValue
    second_twice: MetricValue


class VerdictRates(NamedTuple):
    """Judgments that name no winner, in %.

    Attributes:
        ties: Of the judgments with a verdict; None where there is no verdict at all.
        failures: Without a verdict, of all judgments.
    """

    ties: MetricValue | None
    failures: MetricValue


def first_slot_rate(
    p_first: npt.ArrayLike, *, samples: int = 2000, seed: int = 0, prompt_ids: Groups | None = None
) -> MetricValue:
    """The share of judgments that prefer the completion shown first, a tie counting half; in %.

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
    wins = _preferred(probabilities(p_first, name="p_first")) / 2 + 0.5
    return percent("first_slot_rate", wins, Resampling(samples, seed), prompt_ids)


def swap_consistency(
    p_first: Values,
    p_first_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> MetricValue:
    """The share of pairs with the same winner in both orders, two ties being the same; in %.

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
    one = verdicts(p_first, name="p_first")
    other = verdicts(p_first_swapped, name="p_first_swapped")
    same_size(p_first=one, p_first_swapped=other, prompt_ids=prompt_ids)
    answered = ~np.isnan(one + other)
    if not answered.any():
        raise ValueError("no pair has a verdict in both orders, so its consistency does not exist")
    same = (_preferred(one) == -_preferred(other))[answered]
    groups = selected(prompt_ids, answered)
    return percent("swap_consistency", same, Resampling(samples, seed), groups)


def labelled_accuracy(
    labels: npt.ArrayLike,
    p_one: Values,
    p_one_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> LabelledAccuracy:
    """The accuracy of a judge in each order, on average, and in both.

    Args:
        labels: The better answer of each pair [n], 1 or 2.
        p_one: P(answer 1 is better) with answer 1 shown first [n].
        p_one_swapped: P(answer 1 is better) with answer 2 shown first [n].
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each pair [n], to resample prompts; None if there is one pair per
            prompt.

    Raises:
        ValueError: Lengths differ, there is no pair, a label is not 1 or 2, or a verdict is outside
            [0, 1].
    Source: LLMBar, arXiv:2310.07641.
    """
    one, other = _both_orders(p_one, p_one_swapped)
    label = _labels(labels, one.size)
    right, right_swapped = _winner(one) == label, _winner(other) == label
    resampling = Resampling(samples, seed)
    return LabelledAccuracy(
        percent("accuracy_original_order", right, resampling, prompt_ids),
        percent("accuracy_swapped_order", right_swapped, resampling, prompt_ids),
        percent("accuracy", right / 2 + right_swapped / 2, resampling, prompt_ids),
        percent("accuracy_in_both_orders", right & right_swapped, resampling, prompt_ids),
    )


def order_agreement(
    p_one: Values,
    p_one_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> OrderAgreement:
    """The share of pairs with the same winner in both orders, with and without missing verdicts.

    Args and Raises: as for `labelled_accuracy`; or no pair has a verdict in both orders.
    """
    one, other = _both_orders(p_one, p_one_swapped)
    same = _winner(one) == _winner(other)
    return OrderAgreement(
        percent("agreement", same, Resampling(samples, seed), prompt_ids),
        # In the swapped order the first slot holds answer 2.
        swap_consistency(one, 1 - other, samples=samples, seed=seed, prompt_ids=prompt_ids),
    )


def slot_preference(
    p_one: Values,
    p_one_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> SlotPreference:
    """The judge's preference for the first slot, and its contradictions in each direction.

    Without ties and missing verdicts pick_first = 50 + (first_twice - second_twice) / 2.

    Args and Raises: as for `labelled_accuracy`; or there is no verdict at all.
    """
    one, other = _both_orders(p_one, p_one_swapped)
    winner, swapped = _winner(one), _winner(other)
    p_first = np.concatenate([one, 1 - other])
    known = ~np.isnan(p_first)
    # Both judgments of a pair are resampled together.
    pair = np.arange(one.size) if prompt_ids is None else np.asarray(prompt_ids)
    resampling = Resampling(samples, seed)
    return SlotPreference(
        percent("pick_first", (winner == 1) / 2 + (swapped == 2) / 2, resampling, prompt_ids),
        first_slot_rate(
            p_first[known],
            samples=samples,
            seed=seed,
            prompt_ids=np.concatenate([pair, pair])[known].astype(np.str_),
        ),
        percent("first_slot_twice", (winner == 1) & (swapped == 2), resampling, prompt_ids),
        percent("second_slot_twice", (winner == 2) & (swapped == 1), resampling, prompt_ids),
    )


def verdict_rates(
    p_one: Values, *, samples: int = 2000, seed: int = 0, prompt_ids: Groups | None = None
) -> VerdictRates:
    """The shares of ties and of judgments without a verdict.

    Args:
        p_one: P(one answer is better) of each judgment [n], in any order.
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each judgment [n], to resample prompts.

    Raises:
        ValueError: No judgment, or a verdict outside [0, 1].
    """
    p = verdicts(p_one, name="p_one")
    known = ~np.isnan(p)
    resampling = Resampling(samples, seed)
    failures = percent("failure_rate", ~known, resampling, prompt_ids)
    if not known.any():
        return VerdictRates(None, failures)
    ties = percent("tie_rate", p[known] == 0.5, resampling, selected(prompt_ids, known))
    return VerdictRates(ties, failures)


def length_preference(
    p_one: Values,
    lengths_one: npt.ArrayLike,
    lengths_two: npt.ArrayLike,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
    name: str = "length_preference",
) -> MetricValue:
    """The share of pairs whose longer answer wins, a tie counting half, in %.

    Of the pairs with a verdict whose lengths differ. It is no bias by itself: compare with the same
    figure of the labels, `p_one` 1 where the label is 1 and 0 elsewhere.

    Args:
        p_one: P(answer 1 is better) [n], best the mean of both orders; None or NaN for no verdict.
        lengths_one: Length of each answer 1 [n], in any unit.
        lengths_two: Length of each answer 2 [n].
        samples: Number of bootstrap samples of the standard error; without prompt_ids nothing is
            drawn.
        seed: Seed of the bootstrap.
        prompt_ids: Prompt of each pair [n], to resample prompts.
        name: Name of the metric.

    Raises:
        ValueError: Lengths differ in number or are not finite, or no pair has both a verdict and
            two lengths.
    """
    p = verdicts(p_one, name="p_one")
    one = finite_values(lengths_one, name="lengths_one")
    two = finite_values(lengths_two, name="lengths_two")
    same_size(p_one=p, lengths_one=one, lengths_two=two)
    used = ~np.isnan(p) & (one != two)
    if not used.any():
        raise ValueError("no pair has a verdict and two different lengths")
    wins = (1 + _preferred(p) * np.sign(one - two)) / 2
    return percent(name, wins[used], Resampling(samples, seed), selected(prompt_ids, used))


def _preferred(p_first: Array) -> Array:
    """1 for the first, -1 for the second, 0 for a tie, NaN for no verdict."""
    preferred: Array = np.sign(p_first - 0.5)
    return preferred


def _winner(p_one: Array) -> npt.NDArray[np.int8]:
    """1 or 2, 0 a tie, -1 no verdict."""
    winner = np.where(p_one > 0.5, 1, np.where(p_one < 0.5, 2, 0))
    return np.where(np.isnan(p_one), -1, winner).astype(np.int8)


def _both_orders(p_one: Values, p_one_swapped: Values) -> tuple[Array, Array]:
    one, other = verdicts(p_one, name="p_one"), verdicts(p_one_swapped, name="p_one_swapped")
    same_size(p_one=one, p_one_swapped=other)
    if not one.size:
        raise ValueError("no pair was judged")
    return one, other


def _labels(labels: npt.ArrayLike, n: int) -> npt.NDArray[np.int8]:
    array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(f"{n} pairs, but labels of shape {array.shape}")
    refuse(~np.isin(array, (1, 2)), array, "must be 1 or 2", name="labels")
    return array.astype(np.int8)
