"""Minimum and maximum: the number of duels, odd numbers, failed duels, figures."""

from functools import partial

import numpy as np
import pytest
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.protocol import Outcome, facts_of
from prefine.ranking.strategies.minmax import minmax

NAN = float("nan")


def run(table, **options) -> Outcome:
    return table_world(table).run(partial(minmax, **options))[0]


@pytest.mark.parametrize("m", range(2, 34))
def test_duels_and_rounds_are_the_declared_ones(m):
    quality = np.random.default_rng(m).permutation(m)
    facts = facts_of(minmax)
    world = table_world(transitive_table(quality))
    (outcome,) = world.run(partial(minmax, order="single"))
    assert outcome == Outcome(champion=int(np.argmax(quality)), worst=int(np.argmin(quality)))
    late_has_won = m % 2 and quality[-1] > quality[:2].max()
    most = 3 * m // 2 - 2 if m % 2 == 0 else 3 * (m - 1) // 2
    assert (world.calls, facts.max_asks(m, order="single")) == (most - bool(late_has_won), most)
    assert world.rounds <= facts.rounds(m, order="single") == int(np.ceil(np.log2(m))) + m % 2
    assert (facts.max_asks(m), facts.rounds(m)) == (2 * most, 2 * facts.rounds(m, order="both"))


def test_an_odd_one_that_has_won_is_not_the_worst():
    # 2 beats 0, then loses to nobody; 1 is alone among the losers.
    cyclic = [[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]]
    assert run(cyclic) == Outcome(champion=2, worst=1)


def test_a_tie_keeps_the_lower_index_as_the_better():
    assert run(np.full((6, 6), 0.5)) == Outcome(champion=0, worst=5)


def test_whoever_has_not_won_or_lost_is_not_named():
    table = transitive_table([0, 1])
    table[:] = NAN
    assert run(table) == Outcome()
    table = transitive_table([0, 3, 2, 1])
    table[2, 3] = table[3, 2] = NAN  # 2 goes to the winners, 3 to the losers
    assert run(table) == Outcome(champion=1, worst=0)
    table[1, 2] = table[2, 1] = NAN  # 1 has won, 2 has not
    assert run(table) == Outcome(champion=1, worst=0)
    table = transitive_table([0, 1, 2, 3])
    table[0, 1] = table[1, 0] = table[2, 3] = table[3, 2] = NAN
    table[1, 3] = table[3, 1] = NAN
    assert run(table) == Outcome(champion=2)


def test_an_odd_one_without_a_verdict_joins_the_losers():
    table = transitive_table([2, 1, 0])
    table[0, 2] = table[2, 0] = NAN
    assert run(table) == Outcome(champion=0, worst=2)
    table[0, 1] = table[1, 0] = NAN
    assert run(table) == Outcome(worst=2)


@pytest.mark.torture
@pytest.mark.parametrize(("m", "gap"), [(8, 2.05), (16, 2.54), (32, 3.10)])
def test_figures_of_the_simulated_judge(m, gap):
    world = noisy_world(3_000, m, sigma=np.sqrt(2), bias=0.5, soft=False, seed=6)
    outcomes = world.run(partial(minmax, order="single"))
    assert world.calls == 3_000 * (3 * m // 2 - 2)
    rows = np.arange(3_000)
    champions, worst = (
        world.quality[rows, [getattr(o, f) for o in outcomes]] for f in ("champion", "worst")
    )
    found = champions - worst
    # Three standard errors: of the figure, about as large as this sample's own, and of this sample.
    assert found.mean() == pytest.approx(
        gap, abs=3 * np.sqrt(2) * found.std() / np.sqrt(len(found))
    )
