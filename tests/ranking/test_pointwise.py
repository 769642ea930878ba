"""Pointwise: ratings make the order; what failed has no place."""

import pytest

from prefine.ranking.protocol import Outcome, Rate, facts_of
from prefine.ranking.run import drive
from prefine.ranking.strategies.pointwise import pointwise


def run(ratings) -> Outcome:
    asked = []

    def answer(asks):
        asked.append([ask for _, ask in asks])
        return ratings

    (outcome,) = drive({"a": pointwise(len(ratings))}, answer).values()
    assert asked == [[Rate(i) for i in range(len(ratings))]]
    return outcome


def test_ratings_are_the_ranking_and_ties_go_by_index():
    assert run([0.5, 2.0, -3.0, 2.0]) == Outcome(
        champion=1, worst=2, order=(1, 3, 0, 2), scores=(0.5, 2.0, -3.0, 2.0)
    )
    assert run([1.0] * 3).order == (0, 1, 2)


def test_a_failed_rating_has_no_place():
    assert run([0.5, None, 3.0, 1.0]) == Outcome(champion=2, worst=0)


@pytest.mark.parametrize("ratings", [[None, None], [None, 4.0, None]])
def test_fewer_than_two_ratings_find_nothing(ratings):
    assert run(ratings) == Outcome()


def test_facts():
    facts = facts_of(pointwise)
    assert (facts.max_asks(7), facts.max_ratings(7), facts.rounds(7), facts.asks) == (
        7,
        7,
        1,
        {"ratings"},
    )
