"""Selectors: which pairs come out of a ranking, and that a draw depends on its seed and prompt alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.pairing.all_pairs import all_pairs
from prefine.pairing.base import Choice
from prefine.pairing.best_vs_last_loser import best_vs_last_loser
from prefine.pairing.best_vs_random import best_vs_random
from prefine.pairing.best_vs_worst import best_vs_worst
from prefine.records import Ranking

SELECTORS = (best_vs_random, best_vs_last_loser, best_vs_worst, all_pairs)
IDS = ("a", "b", "c", "d")


def ranking(**fields) -> Ranking:
    return Ranking(**{"prompt_id": "p", "strategy": "s", "completions": IDS, **fields})


@pytest.mark.parametrize("select", SELECTORS)
def test_a_ranking_that_found_nothing_gives_no_pair(select):
    assert select(ranking()) == []
    assert select(ranking(completions=())) == []


def test_random_never_takes_the_champion_and_takes_the_others_alike():
    choices = [best_vs_random(ranking(prompt_id=f"p{n}", champion="b"))[0] for n in range(3_000)]
    assert {choice.chosen for choice in choices} == {"b"}
    counts = Counter(choice.rejected for choice in choices)
    assert set(counts) == {"a", "c", "d"}
    assert all(abs(count - 1_000) < 4 * (3_000 * 2 / 9) ** 0.5 for count in counts.values())


@given(order=st.permutations(IDS), seed=st.integers(0, 99))
def test_random_depends_on_seed_and_prompt_not_on_the_order_of_the_completions(order, seed):
    one = best_vs_random(ranking(champion="a"), seed=seed)
    assert best_vs_random(ranking(champion="a", completions=tuple(order)), seed=seed) == one


def test_random_draws_the_same_in_every_process():
    drawn = [best_vs_random(ranking(prompt_id=f"p{n}", champion="a"), seed=7)[0].rejected for n in range(12)]
    assert "".join(drawn) == "bbbbddcddbcc"


def test_random_draws_anew_for_another_seed():
    assert len({best_vs_random(ranking(champion="a"), seed=seed)[0].rejected for seed in range(20)}) == 3


def test_random_needs_an_other():
    assert best_vs_random(ranking(champion="a", completions=("a",))) == []


def test_last_loser_and_worst():
    found = ranking(champion="a", last_loser="c", worst="d")
    assert best_vs_last_loser(found) == [Choice("a", "c")]
    assert best_vs_worst(found) == [Choice("a", "d")]
    assert best_vs_worst(ranking(champion="a", worst="a")) == []


def test_all_pairs_are_those_whose_scores_differ_enough():
    scored = ranking(scores=(0.25, 1.0, 0.25, 0.5))
    everything = [("b", "d"), ("b", "a"), ("b", "c"), ("d", "a"), ("d", "c")]
    assert all_pairs(scored) == [Choice(*pair) for pair in everything]
    assert all_pairs(scored, min_gap=0.25) == [Choice("b", "d"), Choice("b", "a"), Choice("b", "c")]
    assert all_pairs(scored, min_gap=0.75) == []


@given(scores=st.lists(st.integers(0, 3), min_size=4, max_size=4), limit=st.integers(1, 7), seed=st.integers(0, 9))
def test_all_pairs_keeps_a_seeded_subset_in_the_same_order(scores, limit, seed):
    scored = ranking(scores=tuple(scores))
    everything, kept = all_pairs(scored), all_pairs(scored, max_pairs=limit, seed=seed)
    assert len(kept) == min(limit, len(everything))
    assert kept == [choice for choice in everything if choice in kept]
    assert kept == all_pairs(scored, max_pairs=limit, seed=seed)
    value = dict(zip(IDS, scores, strict=True))
    assert all(value[choice.chosen] > value[choice.rejected] for choice in kept)


def test_all_pairs_draws_every_pair_at_some_seed():
    scored = ranking(scores=(0.0, 1.0, 2.0, 3.0))
    assert {all_pairs(scored, max_pairs=1, seed=seed)[0] for seed in range(80)} == set(all_pairs(scored))
