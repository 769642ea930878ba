"""Driving many strategies: lockstep, joined by key, lengths and values checked."""

import pytest

from prefine.ranking.protocol import Duel, Outcome, Rate, Strategy
from prefine.ranking.run import drive
from prefine.ranking.strategies.iterative import iterative
from prefine.ranking.strategies.round_robin import round_robin


def rate_all(m: int) -> Strategy:
    answers = yield [Rate(i) for i in range(m)]
    return Outcome(scores=tuple(a for a in answers if a is not None))


def immediate() -> Strategy:
    return Outcome(champion=7)
    yield []


def test_one_call_per_round_with_the_asks_of_everyone_still_running():
    rounds = []

    def answer(asks):
        rounds.append(asks)
        return [1.0 for _ in asks]

    strategies = {
        "a": iterative(3, order="both"),
        "b": immediate(),
        "c": round_robin(2),
        "d": rate_all(2),
    }
    outcomes = drive(strategies, answer)
    assert rounds == [
        [("a", Duel(0, 1)), ("a", Duel(1, 0)), ("c", Duel(0, 1)), ("d", Rate(0)), ("d", Rate(1))],
        [("a", Duel(0, 2)), ("a", Duel(2, 0))],
    ]
    assert list(outcomes) == ["a", "b", "c", "d"]
    assert outcomes["a"] == Outcome(champion=0, last_loser=2)
    assert outcomes["b"] == Outcome(champion=7)
    assert outcomes["c"].champion == 0
    assert outcomes["d"].scores == (1.0, 1.0)


def test_every_prompt_gets_its_own_answers():
    best = {f"prompt-{n}": n % 5 for n in range(50)}

    def answer(asks):
        return [float(ask.first == best[key]) if best[key] in ask else 0.5 for key, ask in asks]

    outcomes = drive({key: iterative(5) for key in best}, answer)
    assert {key: outcome.champion for key, outcome in outcomes.items()} == best


def test_nothing_to_run_asks_nothing():
    assert drive({}, lambda asks: pytest.fail("asked")) == {}


def test_a_wrong_number_of_answers_is_refused():
    with pytest.raises(ValueError, match="1 asks, but 0 answers"):
        drive({"a": iterative(2)}, lambda asks: [])


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match=r"a: Duel\(first=0, second=1\) was answered by"):
        drive({"a": iterative(2)}, lambda asks: [value])


def test_a_rating_may_be_any_finite_number():
    assert drive({"a": rate_all(1)}, lambda asks: [-3.5])["a"].scores == (-3.5,)
    with pytest.raises(ValueError, match="was answered by inf"):
        drive({"a": rate_all(1)}, lambda asks: [float("inf")])
