"""A judge against labelled pairs, in both orders."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.judges.verdicts import (
    labelled_accuracy,
    length_preference,
    order_agreement,
    slot_preference,
    swap_consistency,
    verdict_rates,
)

TABLES = {0: None, 1: 1.0, 2: 0.0}


@pytest.fixture(scope="module")
def recorded(real_data: Path) -> dict[tuple[str, str, str], tuple[list, list, list]]:
    """Labels and P(answer 1 is better) in both orders, by subset, judge and strategy."""
    found: dict[tuple[str, str, str], tuple[list, list, list]] = {}
    for row in pq.read_table(real_data / "llmbar" / "verdicts.parquet").to_pylist():
        key = (row["dataset"], row["judge"], row["strategy"])
        label, one, other = found.setdefault(key, ([], [], []))
        label.append(row["label"])
        one.append(TABLES[row["winner_orig"]])
        other.append(TABLES[row["winner_swap"]])
    return found


def test_every_published_accuracy_and_agreement(recorded: dict, real_data: Path) -> None:
    with (real_data / "llmbar" / "published_statistics.csv").open(newline="") as file:
        published = list(csv.DictReader(file))
    assert len(published) == 185
    for row in published:
        label, one, other = recorded[row["dataset"], row["judge"], row["strategy"]]
        accuracy = labelled_accuracy(label, one, other, samples=2)
        agreement = order_agreement(one, other, samples=2)
        assert accuracy.original.n == int(row["n"])
        for metric, name in (
            (accuracy.original, "pub_acc_orig"),
            (accuracy.swapped, "pub_acc_swap"),
            (accuracy.mean, "pub_acc_avg"),
            (accuracy.both, "pub_acc_both"),
            (agreement.all_pairs, "pub_agree"),
        ):
            assert metric.value == pytest.approx(float(row[name]), abs=1e-9), (row, name)


def test_the_figures_that_are_known_of_falcon(recorded: dict) -> None:
    pairs = [
        recorded[subset, "Falcon", "Vanilla_NoRules"]
        for subset in ("Natural", "Neighbor", "GPTInst", "GPTOut", "Manual")
    ]
    one, other = ([p for pair in pairs for p in pair[k]] for k in (1, 2))
    slots, agreement = slot_preference(one, other), order_agreement(one, other)
    assert slots.pick_first.value == pytest.approx(76.7, abs=0.05)
    assert agreement.all_pairs.value == pytest.approx(44.2, abs=0.05)
    assert slots.pick_first.n == 419
    # Without ties: what is above one half is half of the difference of the contradictions, but for
    # missing verdicts.
    assert slots.pick_first.value == pytest.approx(
        50 + (slots.first_twice.value - slots.second_twice.value) / 2, abs=0.5
    )


def test_known_answers() -> None:
    labels = [1, 1, 2, 2, 1, 2]
    one = [1.0, 0.9, 0.2, 0.7, 0.5, None]
    other = [1.0, 0.1, 0.4, 1.0, 0.5, 0.0]
    accuracy = labelled_accuracy(labels, one, other)
    assert accuracy.original.value == pytest.approx(100 * 3 / 6)
    assert accuracy.swapped.value == pytest.approx(100 * 3 / 6)
    assert accuracy.mean.value == pytest.approx(100 * 3 / 6)
    assert accuracy.both.value == pytest.approx(100 * 2 / 6)
    agreement = order_agreement(one, other)
    assert agreement.all_pairs.value == pytest.approx(100 * 4 / 6)
    assert (agreement.answered.value, agreement.answered.n) == (pytest.approx(80), 5)
    assert agreement.answered.name == "swap_consistency"
    slots = slot_preference(one, other)
    # First slot: pairs 0, 1, 3 in the original order, pairs 1, 2, 5 in the swapped one.
    assert slots.pick_first.value == pytest.approx(100 * (3 / 6 + 3 / 6) / 2)
    assert slots.first_slot_rate.value == pytest.approx(100 * (3 + 3 + 2 * 0.5) / 11)
    assert (slots.first_twice.value, slots.second_twice.value) == (pytest.approx(100 / 6), 0)
    rates = verdict_rates([*one, *other])
    assert rates.ties is not None
    assert (rates.ties.value, rates.ties.n) == (pytest.approx(100 * 2 / 11), 11)
    assert (rates.failures.value, rates.failures.n) == (pytest.approx(100 / 12), 12)


def test_no_verdict_twice_is_agreement_only_when_all_pairs_count() -> None:
    agreement = order_agreement([None, 1.0, 1.0], [None, 0.0, 1.0])
    assert agreement.all_pairs.value == pytest.approx(200 / 3)
    assert agreement.answered.value == pytest.approx(50)


def test_length_preference() -> None:
    found = length_preference([0.9, 0.2, 0.5, None, 1.0], [5, 9, 4, 3, 6], [3, 2, 8, 1, 6])
    # The pair without a verdict and the one of equal lengths are left out.
    assert (found.value, found.n) == (pytest.approx(50), 3)
    labels = np.array([1, 2, 2, 1, 1])
    truth = length_preference(
        labels == 1, [5, 9, 4, 3, 6], [3, 2, 8, 1, 6], name="length_preference_of_labels"
    )
    assert truth.value == pytest.approx(75)


SOME = st.lists(
    st.tuples(st.sampled_from([1, 2]), *[st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0, None])] * 2),
    min_size=3,
    max_size=20,
)


@settings(max_examples=25, derandomize=True)
@given(SOME)
def test_renaming_the_answers_and_the_order_of_pairs_do_not_matter(rows: list) -> None:
    rows = [*rows, (1, 0.8, 0.8)]
    labels, one, other = map(list, zip(*rows, strict=True))

    def everything(labels: list, one: list, other: list) -> list[float]:
        slots = slot_preference(one, other, samples=2)
        found = [
            *labelled_accuracy(labels, one, other, samples=2),
            *order_agreement(one, other, samples=2),
            *slots,
        ]
        return [metric.value for metric in found]

    before = everything(labels, one, other)
    assert everything(labels[::-1], one[::-1], other[::-1]) == pytest.approx(before)
    assert everything(labels * 2, one * 2, other * 2) == pytest.approx(before)
    # Answer 1 becomes answer 2, and with it the order shown.
    flipped = [[None if p is None else 1 - p for p in column] for column in (other, one)]
    accuracy, renamed = (
        labelled_accuracy(labels, one, other),
        labelled_accuracy([3 - x for x in labels], *flipped),
    )
    assert renamed.original.value == pytest.approx(accuracy.swapped.value)
    assert renamed.both.value == pytest.approx(accuracy.both.value)
    slots, turned = slot_preference(one, other), slot_preference(*flipped)
    assert [m.value for m in turned] == pytest.approx([m.value for m in slots])


def test_it_is_swap_consistency_by_its_own_convention() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random(50), rng.random(50)
    assert order_agreement(one, other).answered == swap_consistency(one, 1 - other)


def test_pairs_of_one_prompt_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.integers(0, 2, 100), 5)
    labels, prompts = np.ones(500, dtype=int), np.repeat(np.arange(100), 5).astype(str)
    alone = labelled_accuracy(labels, right, right).mean
    together = labelled_accuracy(labels, right, right, prompt_ids=prompts).mean
    assert together.standard_error > 1.8 * alone.standard_error  # type: ignore[operator]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="labels must be 1 or 2, got 0 at index 1"):
        labelled_accuracy([1, 0], [1, 0], [1, 0])
    with pytest.raises(ValueError, match="numbers of rows differ: 2 p_one, 1 p_one_swapped"):
        labelled_accuracy([1, 2], [1, 0], [1])
    with pytest.raises(ValueError, match="no pair was judged"):
        labelled_accuracy([], [], [])
    with pytest.raises(ValueError, match=r"2 pairs, but labels of shape \(1,\)"):
        labelled_accuracy([1], [1, 0], [1, 0])
    with pytest.raises(ValueError, match=r"p_one must be in \[0, 1\], got 2.0 at index 0"):
        order_agreement([2.0], [1.0])
    with pytest.raises(ValueError, match="no pair has a verdict in both orders"):
        order_agreement([None], [1.0])
    with pytest.raises(ValueError, match="no pair has a verdict and two different lengths"):
        length_preference([1.0, None], [3, 4], [3, 5])
    with pytest.raises(
        ValueError, match="numbers of rows differ: 1 p_one, 2 lengths_one, 1 lengths_two"
    ):
        length_preference([1.0], [3, 4], [3])
    assert verdict_rates([None, None]).ties is None
    one = labelled_accuracy([1], [1.0], [0.0])
    assert (one.mean.value, one.mean.interval) == (50, None)
