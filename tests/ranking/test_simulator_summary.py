"""The table of a simulation: means, the frontier, and the advice."""

import math

import numpy as np
import pytest

from prefine.ranking.base import Strategy
from prefine.ranking.simulator import Contestant, Played, Prices, Row, advise, summarise
from prefine.ranking.simulator.summary import clear_steps, estimate, frontier_of


def nothing(num_completions: int) -> Strategy:
    raise AssertionError("only its name matters here")


def contestants(count: int) -> list[Contestant]:
    return [Contestant(name, (), nothing) for name in "abcdefgh"[:count]]


def played(calls: float, regret: list[float], ratings: float = 0.0) -> Played:
    ones = np.ones(len(regret))
    return Played(calls * ones, ratings * ones, ones, np.array(regret), {})


def noise(seed: int, mean: float, worlds: int = 4000) -> list[float]:
    drawn = np.abs(np.random.default_rng(seed).normal(size=worlds))
    return list(drawn * mean / drawn.mean())


def table(parts: list[Played], prices: Prices | None = None, finds_best: list[bool] | None = None) -> list[Row]:
    return summarise(contestants(len(parts)), parts, finds_best or [True] * len(parts), prices or Prices())


def test_an_estimate_is_the_mean_and_its_standard_error() -> None:
    found = estimate(np.array([1.0, 2.0, 6.0, math.nan]))
    assert found.mean == 3
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert all(math.isnan(part) for part in estimate(np.array([math.nan])))


def test_a_row_counts_the_best_and_prices_the_calls() -> None:
    (row,) = table([played(10, [0.0, 0.0, 0.3, 0.5], ratings=4)], Prices(duel=2, rating=0.5))
    assert row.p_best.mean == 0.5
    assert row.regret.mean == pytest.approx(0.2)
    assert row.calls.mean == 10
    assert row.cost.mean == 6 * 2 + 4 * 0.5


def test_the_frontier_is_what_nobody_beats() -> None:
    assert frontier_of([3, 1, 2, 2, 4, 1], [1, 5, 2, 3, 1, 5]) == [1, 5, 2, 0]


def test_a_step_that_may_be_noise_is_on_the_frontier_and_not_clear() -> None:
    # The third row has the second one's regret but for a hair; the fourth really has less.
    base, noisy = noise(0, 0.5), noise(1, 0.499)
    parts = [played(5, noise(2, 0.9)), played(10, base), played(11, noisy), played(20, noise(3, 0.3))]
    rows = table(parts)
    assert [row.frontier for row in rows] == [True] * 4
    assert [row.clear for row in rows] == [True, True, False, True]


def test_differences_are_taken_world_by_world() -> None:
    """A small gain that is there in every world is clear, however much worlds differ."""
    base = noise(0, 0.5)
    assert clear_steps([0, 1], [played(5, base), played(6, [regret - 1e-6 for regret in base])]) == [0, 1]


def test_the_same_champions_for_more_calls_are_beaten() -> None:
    base = noise(0, 0.5)
    rows = table([played(30, base), played(18, base)])
    assert [row.frontier for row in rows] == [False, True]


def test_without_a_limit_the_advice_is_the_row_that_makes_the_most_of_its_calls() -> None:
    # cost * regret^2: 10, 8.1, 12
    parts = [played(10, noise(0, 1.0)), played(40, noise(1, 0.45)), played(133, noise(2, 0.3))]
    advice = advise(table(parts), parts, max_calls=None, max_cost=None)
    assert advice.row == 1
    assert "a would save 30 of 40 calls" in advice.reason
    assert "c would take 0.150" in advice.reason


def test_within_a_limit_the_advice_is_the_least_regret_that_is_not_noise() -> None:
    parts = [
        played(10, noise(0, 1.0)),
        played(40, noise(1, 0.45)),
        played(60, noise(2, 0.449)),
        played(133, noise(3, 0.3)),
    ]
    rows = table(parts)
    assert advise(rows, parts, max_calls=132, max_cost=None).row == 1
    assert advise(rows, parts, max_calls=133, max_cost=None).row == 3
    assert advise(rows, parts, max_calls=133, max_cost=39).row == 0


def test_a_limit_that_nothing_keeps_is_said() -> None:
    parts = [played(10, noise(0, 1.0)), played(40, noise(1, 0.45))]
    advice = advise(table(parts), parts, max_calls=9, max_cost=None)
    assert advice.row is None
    assert (
        advice.reason
        == "No strategy here does with 9 calls per prompt; the cheapest, a, takes 10.0 calls at a cost of 10."
    )


def test_only_a_strategy_that_finds_a_champion_is_advised() -> None:
    parts = [played(10, noise(0, 0.1)), played(40, noise(1, 0.45))]
    assert advise(table(parts, finds_best=[False, True]), parts, max_calls=None, max_cost=None).row == 1
    nobody = advise(table(parts, finds_best=[False, False]), parts, max_calls=None, max_cost=None)
    assert nobody.row is None


def test_advice_that_needs_a_scorer_says_so() -> None:
    parts = [played(10, noise(0, 0.5), ratings=8)]
    assert "asks for ratings" in advise(table(parts), parts, max_calls=None, max_cost=None).reason
    parts = [played(10, noise(0, 0.5))]
    assert "asks for ratings" not in advise(table(parts), parts, max_calls=None, max_cost=None).reason
