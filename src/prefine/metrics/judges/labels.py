"""A judge against labelled pairs, asked in both orders: accuracy, agreement, preference for a slot or for length.

Verdicts here are P(answer 1 is better), whichever answer was shown first: .5 a tie, None or NaN no
verdict. The winner is the likelier answer.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefine.metrics.judges.answers import first_slot_rate, swap_consistency
from prefine.metrics.statistics.intervals import Array, Groups, Values, finite_values, percentage
from prefine.metrics.win_rates.win_rates import verdicts
from prefine.records import MetricValue


class LabelledAccuracy(NamedTuple):
    """How often the winner is the label, of all pairs: a tie or no verdict is not the label. In %.

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
    """How often both orders give the same winner, in %.

    Attributes:
        all_pairs: Of all pairs, no verdict in both orders being the same, as LLMBar counts.
        answered: Of the pairs with a verdict in both orders: `swap_consistency`.
    """

    all_pairs: MetricValue
    answered: MetricValue


class SlotPreference(NamedTuple):
    """What the judge does with the slots, in %.

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
    outcomes = {
        "accuracy_original_order": right,
        "accuracy_swapped_order": right_swapped,
        "accuracy": (right.astype(np.float64) + right_swapped) / 2,
        "accuracy_in_both_orders": right & right_swapped,
    }
    return LabelledAccuracy(
        *(
            percentage(name, hits, samples=samples, seed=seed, groups=prompt_ids)
            for name, hits in outcomes.items()
        )
    )


def order_agreement(
    p_one: Values,
    p_one_swapped: Values,
    *,
    samples: int = 2000,
    seed: int = 0,
    prompt_ids: Groups | None = None,
) -> OrderAgreement:
    """How often swapping the answers leaves the winner, with and without the pairs that lack a verdict.

    Args and Raises: as for `labelled_accuracy`; or no pair has a verdict in both orders.
    """
    one, other = _both_orders(p_one, p_one_swapped)
    same = _winner(one) == _winner(other)
    return OrderAgreement(
        percentage("agreement", same, samples=samples, seed=seed, groups=prompt_ids),
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
    """How often the judge prefers the first slot, and the two ways of contradicting itself that this is made of.

    Without ties and missing verdicts pick_first = 50 + (first_twice - second_twice) / 2.

    Args and Raises: as for `labelled_accuracy`; or there is no verdict at all.
    """
    one, other = _both_orders(p_one, p_one_swapped)
    winner, swapped = _winner(one), _winner(other)
    p_first = np.concatenate([one, 1 - other])
    known = ~np.isnan(p_first)
    # Both judgments of a pair are resampled together.
    pair = np.arange(one.size) if prompt_ids is None else np.asarray(prompt_ids)
    shares = {
        "pick_first": ((winner == 1).astype(np.float64) + (swapped == 2)) / 2,
        "first_slot_twice": (winner == 1) & (swapped == 2),
        "second_slot_twice": (winner == 2) & (swapped == 1),
    }
    pick, first, second = (
        percentage(name, hits, samples=samples, seed=seed, groups=prompt_ids)
        for name, hits in shares.items()
    )
    rate = first_slot_rate(
        p_first[known],
        samples=samples,
        seed=seed,
        prompt_ids=np.concatenate([pair, pair])[known].astype(np.str_),
    )
    return SlotPreference(pick, rate, first, second)


def verdict_rates(
    p_one: Values, *, samples: int = 2000, seed: int = 0, prompt_ids: Groups | None = None
) -> VerdictRates:
    """How often the judge calls a tie, and how often it gives no verdict.

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
    failures = percentage("failure_rate", ~known, samples=samples, seed=seed, groups=prompt_ids)
    if not known.any():
        return VerdictRates(None, failures)
    groups = None if prompt_ids is None else np.asarray(prompt_ids)[known]
    return VerdictRates(
        percentage("tie_rate", p[known] == 0.5, samples=samples, seed=seed, groups=groups),
        failures,
    )


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
    """How often the longer answer wins, a tie counting half, of the pairs with a verdict whose lengths differ; in %.

    It is no bias by itself: compare with the same figure of the labels, `p_one` 1 where the label
    is 1 and 0 elsewhere.

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
    one, two = (
        finite_values(lengths_one, name="lengths_one"),
        finite_values(lengths_two, name="lengths_two"),
    )
    if not p.size == one.size == two.size:
        raise ValueError(f"{p.size} verdicts, but {one.size} and {two.size} lengths")
    used = ~np.isnan(p) & (one != two)
    if not used.any():
        raise ValueError("no pair has a verdict and two different lengths")
    wins = (1 + np.sign(p - 0.5) * np.sign(one - two)) / 2
    groups = None if prompt_ids is None else np.asarray(prompt_ids)[used]
    return percentage(name, wins[used], samples=samples, seed=seed, groups=groups)


def _winner(p_one: Array) -> npt.NDArray[np.int8]:
    """1 or 2, 0 a tie, -1 no verdict."""
    winner = np.where(p_one > 0.5, 1, np.where(p_one < 0.5, 2, 0))
    return np.where(np.isnan(p_one), -1, winner).astype(np.int8)


def _both_orders(p_one: Values, p_one_swapped: Values) -> tuple[Array, Array]:
    one, other = verdicts(p_one, name="p_one"), verdicts(p_one_swapped, name="p_one_swapped")
    if one.size != other.size:
        raise ValueError(f"{one.size} pairs in one order, but {other.size} in the other")
    if not one.size:
        raise ValueError("no pair was judged")
    return one, other


def _labels(labels: npt.ArrayLike, n: int) -> npt.NDArray[np.int8]:
    array = np.asarray(labels)
    if array.shape != (n,):
        raise ValueError(f"{n} pairs, but labels of shape {array.shape}")
    bad = np.flatnonzero(~np.isin(array, (1, 2)))
    if bad.size:
        raise ValueError(f"labels must be 1 or 2, got {array[bad[0]]} at index {bad[0]}")
    return array.astype(np.int8)
