"""Circulant: who meets whom, balance, scores, missing duels."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.fitting.bradley_terry import fit_duels
from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.strategies.circulant import circle, circulant

CASES = [(m, k) for m in range(2, 14) for k in (1, 2, 3, 5, 20)]


@pytest.mark.parametrize(("m", "k"), CASES)
def test_no_pair_meets_twice_and_everyone_is_first_as_often_as_second(m, k):
    duels = circle(m, k)
    assert len({frozenset(duel) for duel in duels}) == len(duels)
    first = np.bincount([duel.first for duel in duels], minlength=m)
    second = np.bincount([duel.second for duel in duels], minlength=m)
    if 2 * k < m:
        assert len(duels) == k * m
        assert (first == k).all() and (second == k).all()
    else:
        assert {frozenset(duel) for duel in duels} == set(map(frozenset, combinations(range(m), 2)))
        assert np.abs(first - second).max() == (m + 1) % 2


@pytest.mark.parametrize(("m", "k"), CASES)
@pytest.mark.parametrize("order", ["single", "both"])
def test_one_round_of_the_declared_calls(m, k, order):
    world = table_world(transitive_table(range(m)))
    world.run(partial(circulant, k=k, order=order))
    facts = facts_of(circulant)
    assert (world.rounds, world.calls) == (
        facts.rounds(m, k=k, order=order),
        facts.max_asks(m, k=k, order=order),
    )


def test_scores_are_the_fit_of_the_duels_with_the_known_bias():
    world = noisy_world(3, 7, sigma=1.0, bias=0.5, soft=True, seed=1)
    for order in ("single", "both"):
        duels = circle(7, 2)
        duels += [Duel(b, a) for a, b in duels] if order == "both" else []
        outcomes = world.run(
            partial(circulant, k=2, order=order, first_slot_bias=1.5, prior_sd=0.8)
        )
        for outcome, p_first in zip(outcomes, world.p_first, strict=True):
            fit = fit_duels(
                7, duels, [float(p_first[d]) for d in duels], first_slot_bias=1.5, prior_sd=0.8
            )
            assert outcome.scores == pytest.approx(fit.scores, abs=1e-9)
            assert outcome.standard_errors == pytest.approx(fit.standard_errors, abs=1e-9)
            assert outcome.order == tuple(np.argsort(-fit.scores))
            assert outcome.champion is None and outcome.worst is None


def test_a_whole_circle_of_noiseless_duels_gives_the_order():
    (outcome,) = table_world(transitive_table([3, 0, 4, 1, 2])).run(partial(circulant, k=2))
    assert outcome.order == (2, 0, 4, 3, 1)


def test_equal_scores_are_ordered_by_index():
    (outcome,) = table_world(np.full((6, 6), 1.0)).run(circulant)
    assert outcome.order == tuple(range(6))
    assert outcome.scores == pytest.approx([0] * 6, abs=1e-9)


def test_a_completion_without_any_answer_leaves_no_order():
    table = transitive_table(range(6))
    table[2, 3] = np.nan
    assert table_world(table).run(circulant)[0].order is not None
    table[2, :] = table[:, 2] = np.nan
    assert table_world(table).run(circulant) == [Outcome()]


@pytest.mark.parametrize(
    ("m", "k", "message"),
    [(1, 2, "completions, got 1"), (0, 1, "completions, got 0"), (5, 0, "k of at least 1, got 0")],
)
def test_too_few_are_refused(m, k, message):
    with pytest.raises(ValueError, match=message):
        circulant(m, k=k)
