"""Merge sort: sorts, with as many duels as it says, and names only what verdicts vouch for."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from judge_worlds import table_world, transitive_table

from prefine.ranking.protocol import Outcome, facts_of
from prefine.ranking.strategies.merge import merge


@pytest.mark.parametrize("m", range(2, 7))
def test_every_order_is_found_within_the_declared_duels(m):
    facts = facts_of(merge)
    calls = set()
    for quality in permutations(range(m)):
        world = table_world(transitive_table(quality))
        (outcome,) = world.run(partial(merge, order="single"))
        best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
        assert outcome == Outcome(champion=best_first[0], worst=best_first[-1], order=best_first)
        assert world.rounds <= facts.rounds(m, order="single")
        calls.add(world.calls)
    assert max(calls) == facts.max_asks(m, order="single")


def test_declared_duels_and_rounds():
    facts = facts_of(merge)
    # Of 8: four merges of 1 + 1, two of 2 + 2, one of 4 + 4.
    assert (facts.max_asks(8, order="single"), facts.rounds(8, order="single")) == (
        4 + 2 * 3 + 7,
        1 + 3 + 7,
    )
    assert (facts.max_asks(8), facts.rounds(8)) == (34, 22)
    assert (facts.max_asks(8, order="both"), facts.rounds(8, order="both")) == (34, 11)


@pytest.mark.parametrize("m", [3, 7, 12, 21, 32])
def test_merges_of_one_level_run_in_lock_step(m):
    facts = facts_of(merge)
    for seed in range(20):
        world = table_world(transitive_table(np.random.default_rng(seed).permutation(m)))
        (outcome,) = world.run(partial(merge, order="single"))
        assert outcome.order == tuple(np.argsort(world.p_first[0].sum(1))[::-1])
        assert world.calls <= facts.max_asks(m, order="single")
        assert world.rounds <= facts.rounds(m, order="single") < 2 * m


def test_a_tie_keeps_the_lower_index_ahead():
    assert table_world(np.full((4, 4), 0.5)).run(merge)[0].order == (0, 1, 2, 3)


def test_whichever_duel_fails_what_is_named_is_right():
    quality = [2, 4, 0, 3, 1]
    best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
    known = 0
    for i, j in permutations(range(5), 2):
        table = transitive_table(quality)
        table[i, j] = table[j, i] = np.nan
        (outcome,) = table_world(table).run(merge)
        assert outcome.champion in (None, best_first[0])
        assert outcome.worst in (None, best_first[-1])
        assert outcome.order in (None, best_first)
        known += outcome.champion is not None
    assert known > 10
    assert table_world(np.full((5, 5), np.nan)).run(merge) == [Outcome()]
