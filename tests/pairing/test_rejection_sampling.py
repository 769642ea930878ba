"""Rejection sampling: the published figures, both limits of beta, ties, duplicates and odd
numbers.
"""

from math import exp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.pairing.protocol import Choice
from prefine.pairing.selectors.rejection_sampling import (
    accept,
    acceptance,
    rejection_sampling,
    rewards_of,
)
from prefine.records import Ranking

EIGHT = [n / 2 for n in range(8)]


def scored(*scores: float) -> Ranking:
    ids = tuple(f"c{n}" for n in range(len(scores)))
    return Ranking(prompt_id="p", strategy="s", completions=ids, scores=scores)


def test_beta_towards_0_accepts_the_best():
    for seed in range(50):
        drawn = accept(EIGHT, k=3, beta=1e-6, rng=np.random.default_rng(seed))
        assert sorted(drawn.indices) == [5, 6, 7]


@pytest.mark.torture
def test_the_published_figures_at_beta_one_half():
    rng = np.random.default_rng(0)
    draws = [accept(EIGHT, k=3, beta=0.5, rng=rng) for _ in range(20_000)]
    means = [np.mean([EIGHT[index] for index in drawn.indices]) for drawn in draws]
    assert np.mean(means) == pytest.approx(2.86, abs=0.02)
    passed = np.array([drawn.first_pass_acceptance for drawn in draws])
    expected = sum(exp(-(3.5 - reward) / 0.5) for reward in EIGHT) / 8
    assert expected == pytest.approx(0.19768, abs=5e-6)
    assert abs(passed.mean() - expected) < 3 * passed.std() / len(draws) ** 0.5


def test_a_large_beta_accepts_the_first_as_published_and_the_selector_shuffles_them():
    found = accept(EIGHT, k=2, beta=float("inf"), rng=np.random.default_rng(1))
    assert (found.indices, found.first_pass_acceptance) == ((0, 1), 1)
    choices = [
        rejection_sampling(scored(*EIGHT), seed=seed, beta=1e9, accepted=2)[0]
        for seed in range(2_000)
    ]
    counts = np.bincount([int(id_[1:]) for choice in choices for id_ in choice[:2]], minlength=8)
    assert np.abs(counts - 500).max() < 4 * (4_000 * 7 / 64) ** 0.5


@given(
    rewards=st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=9),
    k=st.integers(1, 12),
    beta=st.floats(1e-300, 1e300),
    seed=st.integers(0, 99),
)
def test_every_draw_ends_with_k_different_candidates(rewards, k, beta, seed):
    drawn = accept(rewards, k=k, beta=beta, rng=np.random.default_rng(seed))
    assert len(set(drawn.indices)) == len(drawn.indices) == min(k, len(rewards))
    assert 0 < drawn.first_pass_acceptance <= 1
    assert accept(rewards, k=k, beta=beta, rng=np.random.default_rng(seed)) == drawn


@pytest.mark.parametrize(
    ("rewards", "k", "beta"), [([], 1, 1.0), ([1.0], 0, 1.0), ([1.0], 1, 0.0), ([np.nan], 1, 1.0)]
)
def test_nonsense_is_refused(rewards, k, beta):
    with pytest.raises(ValueError, match="rejection sampling needs"):
        accept(rewards, k=k, beta=beta, rng=np.random.default_rng(0))


@pytest.mark.parametrize("number", [2, 3, 4, 5, 7, 8])
def test_first_round_makes_half_as_many_pairs_and_a_tournament_one_fewer(number):
    found = scored(*map(float, range(number)))
    for seed in range(10):
        first_round = rejection_sampling(found, seed=seed, accepted=number)
        assert len(first_round) == number // 2
        players = [id_ for choice in first_round for id_ in (choice.chosen, choice.rejected)]
        assert len(set(players)) == len(players)
        tournament = rejection_sampling(found, seed=seed, accepted=number, pairing="tournament")
        assert len(tournament) == number - 1
        # Everybody but the best loses once.
        assert sorted(choice.rejected for choice in tournament) == sorted(
            found.completions[: number - 1]
        )
        assert tournament[-1].chosen == found.completions[-1]


def test_only_the_accepted_are_paired():
    found = scored(*EIGHT)
    for pairing in ("first_round", "tournament"):
        choices = rejection_sampling(found, seed=0, beta=1e-6, accepted=3, pairing=pairing)
        assert {id_ for choice in choices for id_ in choice[:2]} <= {"c5", "c6", "c7"}


@pytest.mark.parametrize(
    ("scores", "percentiles"),
    [
        ([-3.0, 100.0, 0.0, 7.0], [0.25, 1.0, 0.5, 0.75]),
        ([2.0, 1.0, 2.0, 2.0], [1.0, 0.25, 1.0, 1.0]),
        ([5.0, 5.0], [1.0, 1.0]),
    ],
)
def test_percentiles_are_shares_with_no_higher_score(scores, percentiles):
    assert rewards_of(scores, "percentile").tolist() == percentiles
    assert rewards_of(scores, "score").tolist() == scores


def test_by_percentiles_the_unit_of_the_scores_does_not_matter():
    stretched = scored(*(exp(9 * score) for score in EIGHT))
    options = {"beta": 0.3, "accepted": 4, "scale": "percentile"}
    for seed in range(20):
        choices = rejection_sampling(scored(*EIGHT), seed=seed, **options)
        assert choices == rejection_sampling(stretched, seed=seed, **options)
        # As a first pass with exp((percentile - 1) / tau) accepts them.
        rng = np.random.default_rng(seed)
        order = rng.permutation(8)
        passing = order[rng.random(8) < np.exp(((order + 1) / 8 - 1) / 0.3)]
        met = {id_ for choice in choices for id_ in choice[:2]}
        assert len(met) == 4 and met >= {f"c{n}" for n in passing[:4]}


def test_the_acceptance_of_a_prompt_is_that_of_the_theorem():
    name = "accepted by the first pass"
    assert acceptance(scored(*EIGHT), beta=0.5) == {name: pytest.approx(0.19768, abs=5e-6)}
    by_percentile = sum(exp(-n / 8 / 0.25) for n in range(8)) / 8
    found = acceptance(scored(*EIGHT), beta=0.25, scale="percentile")
    assert found == {name: pytest.approx(by_percentile)}
    assert acceptance(scored(1.0)) == {}


def test_equal_scores_form_no_pair_and_do_not_merge():
    assert rejection_sampling(scored(1.0, 1.0, 1.0), seed=0, pairing="tournament") == []
    choices = rejection_sampling(scored(1.0, 1.0, 0.0), seed=0, accepted=3, pairing="tournament")
    assert choices
    assert {choice.rejected for choice in choices} == {"c2"}


def test_more_wanted_than_there_are_takes_all_of_them():
    assert rejection_sampling(scored(0.0, 1.0), seed=0, accepted=64) == [Choice("c1", "c0")]
