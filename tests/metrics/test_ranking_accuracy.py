"""Ranking accuracy: the paper's identities and theorem, known answers, the flip table."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.rewards.ranking_accuracy import (
    dpo_loss_threshold,
    flip_table,
    idealised_ranking_accuracy,
    length_normalised_ranking_accuracy,
    list_ranking_accuracy,
    ranked_right,
    ranking_accuracy,
)

logp = st.floats(-60, 0)


def ids(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_ties_are_right():
    found = ranking_accuracy(
        [-1.0, -2.0, -3.0, -5.0], [-2.0, -2.0, -1.0, -9.0], ["p", "p", "q", "r"]
    )
    assert (found.name, found.value, found.n, found.unit) == ("ranking_accuracy", 75.0, 4, "%")


def test_length_normalised():
    arguments = ([-10.0, -10.0, -4.0], [-6.0, -12.0, -2.0], [10, 10, 2], [3, 30, 1], ids(3))
    found = length_normalised_ranking_accuracy(*arguments)
    # -1 against -2, -1 against -0.4, -2 against -2.
    assert (found.name, found.value) == (
        "length_normalised_ranking_accuracy",
        pytest.approx(200 / 3),
    )


def test_lists_must_be_in_order_exactly():
    found = list_ranking_accuracy(
        [[-1.0, -2.0, -3.0], [-1.0, -3.0, -2.0], [-1.0, -1.0], [-1.0, -2.0]]
    )
    assert (found.name, found.value, found.n) == ("list_ranking_accuracy", 50.0, 4)


@given(
    pairs=st.lists(
        st.tuples(logp, logp).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=10
    )
)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_lists_of_two_are_pairs_but_for_ties(pairs):
    chosen, rejected = zip(*pairs, strict=True)
    assert list_ranking_accuracy(pairs).value == pytest.approx(
        ranking_accuracy(chosen, rejected, ids(len(chosen)), samples=2).value
    )


def test_idealised_accuracy_of_the_known_pair():
    found = idealised_ranking_accuracy([-2.0], [0.0], [0.75], ["p"], betas=(0.1, 0.5, 1.0))
    assert [(beta, metric.value) for beta, metric in found.by_beta] == [
        (0.1, 100),
        (0.5, 100),
        (1.0, 0),
    ]
    assert found.by_beta[0][1].name == "idealised_ranking_accuracy_beta_0.1"
    assert (found.minimum.value, found.median.value, found.maximum.value) == (0, 100, 100)
    assert found.median.name == "idealised_ranking_accuracy_median"


def test_idealised_accuracy_is_that_of_the_optimum():
    rng = np.random.default_rng(0)
    rw, rl, alpha = rng.normal(-20, 5, 300), rng.normal(-20, 5, 300), rng.random(300)
    for beta, metric in idealised_ranking_accuracy(rw, rl, alpha, ids(300)).by_beta:
        ratio = np.exp(rw - rl) * (alpha / (1 - alpha)) ** (1 / beta)
        assert metric.value == pytest.approx(100 * np.mean(ratio > 1))


def test_raters_who_agree_are_clipped():
    threshold = math.log(0.999 / 0.001)
    found = idealised_ranking_accuracy([-threshold - 0.01], [0.0], [1.0], ["p"], betas=(1.0, 0.9))
    assert [metric.value for _, metric in found.by_beta] == [0, 100]
    # The median of two is the middle.
    assert found.median.value == 50
    loose = idealised_ranking_accuracy(
        [-threshold - 0.01], [0.0], [1.0], ["p"], betas=(1.0,), clip=0.0001
    )
    assert loose.maximum.value == 100


def test_threshold_known_answer():
    assert dpo_loss_threshold([-30.0], [0.0], beta=0.1)[0] == pytest.approx(0.0485874, abs=5e-8)


@given(lw=logp, ll=logp, rw=logp, rl=logp, beta=st.sampled_from((0.05, 0.1, 1.0)))
@settings(derandomize=True, max_examples=200)
def test_right_if_and_only_if_the_loss_is_at_most_the_threshold(lw, ll, rw, rl, beta):
    """Theorem 4.1; at a distance of rounding from the boundary the two may disagree."""
    loss = float(np.logaddexp(0, -beta * ((lw - rw) - (ll - rl))))
    threshold = float(dpo_loss_threshold([rw], [rl], beta=beta)[0])
    if abs(lw - ll) > 1e-6:
        assert bool(ranked_right([lw], [ll])[0]) == (loss <= threshold)


def test_flip_table():
    before, after = [True, True, False, False, False], [True, False, True, False, False]
    found = flip_table(before, after, ids(5))
    values = [metric.value for metric in found[:4]]
    assert values == [20, 20, 20, 40]
    assert (found.corrected.value, found.corrected.n) == (pytest.approx(100 / 3), 3)
    assert (found.broken.value, found.broken.n) == (50, 2)
    assert found.became_right.name == "rankings_became_right"


def test_flip_table_adds_up_and_has_no_share_of_nothing():
    rng = np.random.default_rng(1)
    before, after = rng.random(80) < 0.5, rng.random(80) < 0.6
    found = flip_table(before, after, ids(80))
    assert sum(metric.value for metric in found[:4]) == pytest.approx(100)
    assert found.stayed_right.value + found.became_wrong.value == pytest.approx(100 * before.mean())
    assert flip_table([True], [False], ["p"]).corrected is None
    assert flip_table([False], [False], ["p"]).broken is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ranking_accuracy([1.0, 2.0], [1.0], ids(2)),
            "numbers of rows differ: 2 logp_chosen, 1 logp_rejected",
        ),
        (
            lambda: ranking_accuracy([np.nan], [1.0], ids(1)),
            "logp_chosen must be finite numbers, got nan at index 0",
        ),
        (lambda: ranking_accuracy([], [], []), "logp_chosen must be a non-empty"),
        (
            lambda: length_normalised_ranking_accuracy([1.0], [1.0], [0], [1], ids(1)),
            "chosen_tokens must be at least 1, got 0.0 at index 0",
        ),
        (
            lambda: list_ranking_accuracy([[1.0, 0.0], [1.0]]),
            "logps of prompt 1: a ranking needs at least two",
        ),
        (
            lambda: idealised_ranking_accuracy([1.0], [1.0], [1.2], ids(1)),
            r"proportions must be in \[0, 1\]",
        ),
        (
            lambda: idealised_ranking_accuracy([1.0], [1.0], [1, 1], ids(1)),
            "numbers of rows differ: 1 ref_chosen, 1 ref_rejected, 2 proportions",
        ),
        (
            lambda: idealised_ranking_accuracy([1.0], [1.0], [1], ids(1), betas=(0,)),
            "betas must be positive",
        ),
        (
            lambda: idealised_ranking_accuracy([1.0], [1.0], [1], ids(1), clip=0.5),
            "clip must be between",
        ),
        (
            lambda: flip_table([1, 2], [1, 0], ids(2)),
            "right_before must be true or false, got 2.0 at index 1",
        ),
        (
            lambda: flip_table([1, 0], [1, 0], ids(1)),
            "numbers of rows differ: 2 right_before, 1 prompt_ids",
        ),
        (lambda: dpo_loss_threshold([1.0], [1.0], beta=0), "beta must be positive"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
