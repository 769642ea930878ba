"""Copeland scores, cycles and the distance of orders, against counting one by one."""

from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.ranking.protocol import Outcome
from prefine.ranking.tournament import (
    copeland,
    cyclic_triads,
    kendall_distance,
    points,
    sorted_outcome,
    two_sided,
)

NAN = float("nan")


@st.composite
def tables(draw) -> np.ndarray:
    """Points of each against each, with ties and missing duels; the diagonal is NaN."""
    m = draw(st.integers(2, 7))
    table = np.full((m, m), NAN)
    for i, j in combinations(range(m), 2):
        table[i, j] = draw(st.sampled_from((0.0, 0.5, 1.0, NAN)))
        table[j, i] = 1 - table[i, j]
    return table


def test_points_of_verdicts():
    assert points([0.0, 0.49, 0.5, 0.51, 1.0]).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert np.isnan(points([NAN])).all()


def test_a_table_has_both_sides():
    table = two_sided(np.array([0, 2]), np.array([1, 0]), np.array([0.25, NAN]), completions=3)
    np.testing.assert_array_equal(table, [[NAN, 0.25, NAN], [0.75, NAN, NAN], [NAN, NAN, NAN]])


@given(table=tables())
def test_copeland_is_the_mean_over_those_one_has_met(table):
    scores = copeland(table)
    for i, row in enumerate(table):
        met = [value for value in row if not np.isnan(value)]
        assert scores[i] == pytest.approx(sum(met) / len(met) if met else NAN, nan_ok=True)


def test_copeland_does_not_look_at_the_diagonal():
    assert copeland(np.array([[1.0, 1.0], [0.0, 1.0]])).tolist() == [1.0, 0.0]


@given(table=tables())
def test_cyclic_triads_are_counted_one_by_one(table):
    m = len(table)
    loops = sum(
        table[a, b] == table[b, c] == table[c, a] == 1 for a, b, c in permutations(range(m), 3)
    )
    assert cyclic_triads(table) == loops // 3


@pytest.mark.parametrize("m", [3, 8, 32])
def test_cyclic_triads_without_ties_follow_from_the_wins(m):
    table = np.triu(np.random.default_rng(m).integers(0, 2, (m, m)).astype(float), 1)
    table += np.tril(1 - table.T, -1)
    wins = (table == 1).sum(1)
    assert cyclic_triads(table) == comb(m, 3) - sum(comb(int(w), 2) for w in wins)


@given(m=st.integers(1, 8), data=st.data())
def test_kendall_distance_counts_the_pairs_ranked_oppositely(m, data):
    one, other = (data.draw(st.permutations(range(10, 10 + m))) for _ in range(2))
    opposite = sum(
        (one.index(a) < one.index(b)) != (other.index(a) < other.index(b))
        for a, b in combinations(range(10, 10 + m), 2)
    )
    assert kendall_distance(one, other) == opposite == kendall_distance(other, one)
    assert kendall_distance(one, one) == 0
    assert kendall_distance(one, one[::-1]) == comb(m, 2)


@pytest.mark.parametrize(
    ("one", "other"), [([0, 1], [0]), ([0, 1], [0, 2]), ([0, 0], [0, 0]), ([0, 1], [0, 0])]
)
def test_orders_of_different_things_have_no_distance(one, other):
    with pytest.raises(ValueError, match="not orders of the same things"):
        kendall_distance(one, other)


def test_a_sorts_order_is_known_where_each_beat_the_next():
    whole = {(2, 0), (0, 1)}
    assert sorted_outcome([2, 0, 1], whole) == Outcome(champion=2, worst=1, order=(2, 0, 1))
    assert sorted_outcome([2, 0, 1], {(2, 0), (2, 1)}) == Outcome(champion=2)
    assert sorted_outcome([2, 0, 1], {(0, 1), (2, 1)}) == Outcome(worst=1)
    assert sorted_outcome([2, 0, 1, 3], {(2, 1), (1, 0), (0, 3)}) == Outcome(champion=2, worst=3)
    assert sorted_outcome([0, 1], set()) == Outcome()
