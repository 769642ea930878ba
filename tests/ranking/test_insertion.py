"""Binary insertion: sorts, with as many duels as it says, and names only what verdicts vouch
for.
"""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from judge_worlds import table_world, transitive_table

from prefine.ranking.protocol import Outcome, facts_of
from prefine.ranking.strategies.insertion import insertion


@pytest.mark.parametrize("m", range(2, 7))
def test_every_order_is_found_within_the_declared_duels(m):
    facts = facts_of(insertion)
    calls = set()
    for quality in permutations(range(m)):
        world = table_world(transitive_table(quality))
        (outcome,) = world.run(partial(insertion, order="single"))
        best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
        assert outcome == Outcome(champion=best_first[0], worst=best_first[-1], order=best_first)
        assert world.rounds == world.calls
        calls.add(world.calls)
    assert max(calls) == facts.max_asks(m, order="single") == facts.rounds(m, order="single")


def test_declared_duels():
    facts = facts_of(insertion)
    # 1 + 2 + 2 + 3 + 3 + 3 + 3: the places among 1, 2, …, 7.
    assert facts.max_asks(8, order="single") == 17
    assert (facts.max_asks(8), facts.rounds(8)) == (34, 34)
    assert (facts.max_asks(8, order="both"), facts.rounds(8, order="both")) == (34, 17)


def test_a_newcomer_that_only_ties_goes_below():
    assert table_world(np.full((4, 4), 0.5)).run(insertion)[0].order == (0, 1, 2, 3)


def test_whichever_duel_fails_what_is_named_is_right():
    quality = [2, 4, 0, 3, 1]
    best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
    known = 0
    for i, j in permutations(range(5), 2):
        table = transitive_table(quality)
        table[i, j] = table[j, i] = np.nan
        (outcome,) = table_world(table).run(insertion)
        assert outcome.champion in (None, best_first[0])
        assert outcome.worst in (None, best_first[-1])
        assert outcome.order in (None, best_first)
        known += outcome.champion is not None
    assert known > 10
    assert table_world(np.full((5, 5), np.nan)).run(insertion) == [Outcome()]
