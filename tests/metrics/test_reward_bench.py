"""RewardBench's aggregates, and means over subsets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.judges.reward_bench import (
    SECTIONS,
    V2_SUBSETS,
    TiesPrompts,
    best_of,
    reward_bench_v1,
    reward_bench_v2,
    ties_prompts,
    ties_score,
    weighted_subsets,
)

PAIRS = {subset: count for group in SECTIONS.values() for subset, count in group.items()} | {
    "math-prm": 447
}


def results(accuracy: dict[str, float]) -> tuple[list[float], list[str]]:
    correct, subsets = [], []
    for subset, count in PAIRS.items():
        right = round(accuracy.get(subset, 1.0) * count)
        correct += [1.0] * right + [0.0] * (count - right)
        subsets += [subset] * count
    return correct, subsets


def test_v1_has_23_subsets_and_2985_pairs() -> None:
    assert len(PAIRS) == 23
    assert sum(PAIRS.values()) == 2985


def test_v1_by_hand() -> None:
    correct, subsets = results({"math-prm": 0, "hep-cpp": 0.5, "alpacaeval-easy": 0})
    found = reward_bench_v1(correct, subsets)
    reasoning = 100 * (164 * 5 + 82) / (984 + 6 * 164)
    chat = 100 * (358 - 100) / 358
    assert found.sections["Reasoning"].value == pytest.approx(reasoning)
    assert found.sections["Chat"].value == pytest.approx(chat)
    assert found.sections["Safety"].value == 100
    assert found.sections["Reasoning"].n == 447 + 6 * 164
    assert found.overall.value == pytest.approx((reasoning + chat + 200) / 4)
    assert (found.overall.name, found.overall.n) == ("reward_bench_without_prior_sets", 2985)
    with_prior = reward_bench_v1(correct, subsets, prior_sets=60.0)
    assert with_prior.overall.value == pytest.approx((2 * (reasoning + chat + 200) + 60) / 9)
    assert with_prior.overall.name == "reward_bench"


def test_v1_standard_error_is_that_of_a_stratified_mean() -> None:
    correct, subsets = results(dict.fromkeys(PAIRS, 0.7))
    found = reward_bench_v1(correct, subsets, samples=4000).overall
    variance = 0.0
    for group in SECTIONS.values():
        for subset, count in group.items():
            share = count / sum(group.values()) / len(SECTIONS)
            variance += share**2 * 0.21 / PAIRS[subset]
    assert found.standard_error == pytest.approx(100 * np.sqrt(variance), rel=0.05)


def test_v1_refuses() -> None:
    correct, subsets = results({})
    with pytest.raises(ValueError, match="unknown subset donotanwser"):
        reward_bench_v1(correct, ["donotanwser" if s == "donotanswer" else s for s in subsets])
    with pytest.raises(
        ValueError, match="no item of hep-rust, so the mean over all subsets does not exist"
    ):
        reward_bench_v1(correct[:-164], subsets[:-164])
    with pytest.raises(ValueError, match="prior_sets must be in 0 … 100 %, got 101"):
        reward_bench_v1(correct, subsets, prior_sets=101)
    with pytest.raises(ValueError, match="numbers of rows differ: 2985 values, 2984 subsets"):
        reward_bench_v1(correct, subsets[:-1])


def test_best_of_four_shares_the_credit_of_a_tied_top() -> None:
    scores = [[2, 1, 0, 0], [1, 2, 0, 0], [2, 2, 0, 0], [2, 2, 2, 2], [0, 1, 1, 1]]
    assert best_of(scores).tolist() == [1, 0, 0.5, 0.25, 0]
    assert best_of(scores, right=1).tolist() == [0, 1, 0.5, 0.25, 1 / 3]
    with pytest.raises(
        ValueError, match=r"scores must be finite numbers, got nan at index \[0, 1\]"
    ):
        best_of([[1, np.nan]])
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        best_of([1, 2, 3])


def published_ties(reference: list, tied: list) -> float:
    """The formula of EVALUATION §3, written out for one prompt at a time."""
    total = 0.0
    for (ref, one), (scores, count) in zip(reference, tied, strict=True):
        gap_ref = min(ref[:one]) - max(ref[one:])
        gap, width = (
            min(scores[:count]) - max(scores[count:]),
            max(scores[:count]) - min(scores[:count]),
        )
        smaller = min(gap_ref, gap)
        bonus = (
            0.0
            if width == 0 == smaller
            else np.tanh(smaller / width - 1)
            if width
            else np.sign(smaller)
        )
        total += (
            0.3 * (gap > 0)
            + 0.3 * (gap_ref > 0)
            + 0.2 * (gap > width)
            + 0.2 * (smaller > width)
            + 0.01 * bonus
        )
    return 100 * total / len(tied)


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = [(rng.integers(0, 5, 3).astype(float).tolist(), 1) for _ in range(6)]
    tied = [
        (rng.integers(0, 5, 5).astype(float).tolist(), int(rng.integers(2, 4))) for _ in range(6)
    ]
    sides = [ties_prompts([s for s, _ in side], [c for _, c in side]) for side in (reference, tied)]
    found = ties_score(*sides, samples=2)
    assert found.value == pytest.approx(published_ties(reference, tied))
    assert found.n == 6
    order = rng.permutation(6)
    shuffled = [TiesPrompts(side.gap[order], side.spread[order]) for side in sides]
    assert ties_score(*shuffled, samples=2).value == pytest.approx(found.value)


def test_ties_at_best_and_with_no_spread() -> None:
    best = ties_prompts([[9, 0]], [1]), ties_prompts([[5, 5, 1]], [2])
    assert ties_score(*best).value == pytest.approx(101)
    nothing = ties_prompts([[0, 0]], [1]), ties_prompts([[0, 0, 0]], [2])
    assert ties_score(*nothing).value == 0
    worst = ties_prompts([[0, 9]], [1]), ties_prompts([[0, 0, 9]], [2])
    assert ties_score(*worst).value == pytest.approx(-1)


def test_v2_is_the_mean_of_its_subsets() -> None:
    scores = {s: [[1, 0, 0, 0], [0, 1, 0, 0]] for s in V2_SUBSETS if s != "Ties"}
    scores["Math"] = [[1, 1, 0, 0], [1, 0, 0, 0]]
    ties = ties_prompts([[9, 0]] * 2, [1] * 2), ties_prompts([[5, 5, 1]] * 2, [2] * 2)
    found = reward_bench_v2(scores, *ties)
    assert list(found.subsets) == list(V2_SUBSETS)
    assert found.overall.value == pytest.approx((4 * 50 + 75 + 101) / 6)
    assert (found.overall.n, found.overall.name) == (12, "reward_bench_2")
    with pytest.raises(ValueError, match="subsets must be Factuality"):
        reward_bench_v2({"Math": [[1, 0]]}, *ties)


def test_ties_refuse() -> None:
    one = ties_prompts([[1, 0]], [1])
    with pytest.raises(ValueError, match="2 reference prompts for 1 tied ones"):
        ties_score(ties_prompts([[1, 0]] * 2, [1, 1]), one)
    with pytest.raises(
        ValueError,
        match="prompt 0: needs finite scores of 2 right answers and at least one wrong one",
    ):
        ties_prompts([[1, 0]], [2])
    with pytest.raises(ValueError, match="1 prompts, but 2 numbers"):
        ties_prompts([[1, 0]], [1, 1])


def test_weighted_subsets() -> None:
    found = weighted_subsets("mean", [1, 0, 1, 1], ["a", "a", "b", "b"], {"a": 1, "b": 3})
    assert (found.value, found.n) == (pytest.approx(100 * (0.5 + 3) / 4), 4)
    assert found.standard_error == pytest.approx(100 * np.sqrt(0.25 / 2) / 4, rel=0.1)
    assert weighted_subsets("mean", [1, 0, 1], ["a", "a", "b"], {"a": 1, "b": 1}).interval is None
    with pytest.raises(ValueError, match="weights of subsets must be positive and finite; a"):
        weighted_subsets("mean", [1], ["a"], {"a": 0})
