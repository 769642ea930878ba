"""The table of a simulation: means, the frontier, and the advice."""

import math
from typing import Any

import numpy as np
import pytest

from prefine.errors import ConfigError
from prefine.ranking.protocol import Strategy
from prefine.simulator import Advice, Contestant, Prices, SimulatedGames, StrategyResult, summarise
from prefine.simulator.summary import estimate, frontier_of, share


def nothing(num_completions: int) -> Strategy:
    raise AssertionError("only its name matters here")


def contestants(count: int, finds_best: list[bool] | None = None) -> list[Contestant]:
    return [
        Contestant(name, (), nothing, finds_best=finds)
        for name, finds in zip("abcdefgh", finds_best or [True] * count, strict=False)
    ]


def played(calls: float, regret: list[float], ratings: float = 0.0) -> SimulatedGames:
    ones = np.ones(len(regret))
    return SimulatedGames(
        calls * ones, ratings * ones, ones, 1 - np.array(regret), np.array(regret), {}
    )


def noise(seed: int, mean: float, worlds: int = 4000) -> list[float]:
    drawn = np.abs(np.random.default_rng(seed).normal(size=worlds))
    return list(drawn * mean / drawn.mean())


def table(
    parts: list[SimulatedGames], prices: Prices | None = None, finds_best: list[bool] | None = None
) -> list[StrategyResult]:
    return summarise(contestants(len(parts), finds_best), parts, prices or Prices())[0]


def advice(
    parts: list[SimulatedGames],
    *,
    max_calls: float | None = None,
    max_cost: float | None = None,
    finds_best: list[bool] | None = None,
    prices: Prices | None = None,
) -> Advice:
    """What is advised; it always is a row that is marked."""
    rows, found = summarise(
        contestants(len(parts), finds_best),
        parts,
        prices or Prices(),
        max_calls=max_calls,
        max_cost=max_cost,
    )
    assert found.row is None or rows[found.row].choice
    assert all(row.frontier and row.finds_best for row in rows if row.choice)
    return found


def test_an_estimate_is_the_mean_and_its_standard_error() -> None:
    found = estimate(np.array([1.0, 2.0, 6.0, math.nan]))
    assert found.mean == 3
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert all(math.isnan(part) for part in estimate(np.array([math.nan])))


def test_all_or_none_of_the_worlds_is_not_certain() -> None:
    for hits in (np.zeros(100), np.ones(100)):
        found = share(hits)
        assert found.mean == hits[0]
        assert found.standard_error == pytest.approx(math.sqrt(2 * 102 / 104**3))
    assert share(np.array([0.0, 1.0] * 5000)).standard_error == pytest.approx(0.005, rel=0.001)


def test_a_row_counts_the_best_and_prices_the_calls() -> None:
    (row,) = table([played(10, [0.0, 0.0, 0.3, 0.5], ratings=4)], Prices(duel=2, rating=0.5))
    assert row.p_best.mean == 0.5
    assert row.regret.mean == pytest.approx(0.2)
    assert row.calls.mean == 10
    assert row.cost.mean == 6 * 2 + 4 * 0.5


def test_the_frontier_is_what_nobody_beats() -> None:
    assert frontier_of([3, 1, 2, 2, 4, 1], [1, 5, 2, 3, 1, 5]) == [1, 5, 2, 0]


def test_a_step_that_may_be_noise_is_on_the_frontier_and_no_choice() -> None:
    # The third row has the second one's regret but for a hair; the fourth really has less.
    base, noisy = noise(0, 0.5), noise(1, 0.499)
    parts = [
        played(5, noise(2, 0.9)),
        played(10, base),
        played(11, noisy),
        played(20, noise(3, 0.3)),
    ]
    rows = table(parts)
    assert [row.frontier for row in rows] == [True] * 4
    assert [row.choice for row in rows] == [True, True, False, True]


def test_differences_are_taken_world_by_world() -> None:
    """A small gain that is there in every world is clear, however much worlds differ."""
    base = noise(0, 0.5)
    parts = [played(5, base), played(6, [regret - 1e-6 for regret in base])]
    assert [row.choice for row in table(parts)] == [True, True]


def test_the_same_champions_for_more_calls_are_beaten() -> None:
    base = noise(0, 0.5)
    rows = table([played(30, base), played(18, base)])
    assert [row.frontier for row in rows] == [False, True]


def test_without_a_limit_the_advice_is_the_knee() -> None:
    # cost * regret^2: 10, 8.1, 12
    found = advice(
        [played(10, noise(0, 1.0)), played(40, noise(1, 0.45)), played(133, noise(2, 0.3))]
    )
    assert found.row == 1
    assert "a rule of thumb" in found.reason
    assert "a would save 30 of 40 calls" in found.reason
    assert "c would take 0.150" in found.reason


def test_what_is_free_is_not_the_knee_for_that() -> None:
    assert (
        advice([played(0, noise(0, 2.0)), played(10, noise(1, 0.5)), played(40, noise(2, 0.4))]).row
        == 1
    )


def test_within_a_limit_the_advice_is_the_cheapest_that_nothing_clearly_beats() -> None:
    """b is not clearly better than a, nor c than b; c is clearly better than a."""
    base, rng = noise(0, 0.5), np.random.default_rng(1)

    def near(gain: float, spread: float) -> list[float]:
        drawn = rng.normal(size=len(base))
        drawn = spread * (drawn - drawn.mean()) / drawn.std()
        return [b - gain + d for b, d in zip(base, drawn, strict=True)]

    # The gains over a have standard errors of .0063 and .0016.
    parts = [played(10, base), played(11, near(0.010, 0.4)), played(30, near(0.016, 0.1))]
    found = advice(parts, max_calls=40)
    assert found.row == 1
    assert found.reason == (
        "Within 40 calls per prompt nothing has clearly less regret. Each cheaper one of the "
        "frontier is clearly beaten by something within it. a would save 1 of 11 calls, for "
        "0.010 ± 0.006 sd more regret."
    )
    assert [row.choice for row in table(parts)] == [True, True, False]
    below = advice(parts, max_calls=20)
    assert (below.row, below.reason) == (
        0,
        "Within 20 calls per prompt nothing has clearly less regret.",
    )


def test_within_a_limit_on_calls_at_other_prices() -> None:
    # b takes fewer calls, but dear ones; a would be chosen, were it allowed.
    parts, prices = (
        [played(20, noise(0, 0.5), ratings=20), played(10, noise(1, 0.6))],
        Prices(duel=1, rating=0.1),
    )
    assert advice(parts, prices=prices).row == 0
    assert advice(parts, prices=prices, max_calls=15).row == 1


@pytest.mark.parametrize("seed", range(30))
def test_what_the_advice_says_is_so(seed: int) -> None:
    """Random tables and limits: nothing allowed is clearly better, and what costs less is
    beaten.
    """
    rng = np.random.default_rng(seed)
    shared = rng.exponential(size=300)
    parts = [
        played(cost, list(shared + rng.normal(1 / cost, rng.uniform(0.05, 0.5), size=300)))
        for cost in rng.integers(5, 30, size=7)
    ]
    limit = float(rng.integers(10, 35))
    allowed = [part for part in parts if part.calls[0] <= limit]
    found = advice(parts, max_calls=limit)
    if found.row is None:
        assert not allowed
        return

    def beats(one: SimulatedGames, other: SimulatedGames) -> bool:
        gain = other.regret - one.regret
        return bool(gain.mean() > 2 * gain.std(ddof=1) / math.sqrt(len(gain)))

    chosen = parts[found.row]
    assert not any(beats(other, chosen) for other in allowed)
    for one in (part for part in allowed if part.calls[0] < chosen.calls[0]):
        dominated = any(
            o.calls[0] <= one.calls[0] and o.regret.mean() < one.regret.mean() for o in allowed
        )
        assert dominated or any(beats(other, one) for other in allowed)


def test_a_limit_that_nothing_keeps_is_said() -> None:
    found = advice([played(10, noise(0, 1.0)), played(40, noise(1, 0.45))], max_calls=9)
    assert found.row is None
    assert found.reason == (
        "No strategy here does with 9 calls per prompt; the cheapest, a, takes 10.0 calls at a "
        "cost of 10."
    )


def test_what_exceeds_a_limit_is_not_marked() -> None:
    parts = [played(10, noise(0, 1.0)), played(40, noise(1, 0.45))]
    rows, _ = summarise(contestants(2), parts, Prices(), max_cost=20)
    assert [(row.frontier, row.choice) for row in rows] == [(True, True), (False, False)]


def test_only_a_strategy_that_finds_a_champion_is_marked_and_advised() -> None:
    parts = [played(10, noise(0, 0.1)), played(40, noise(1, 0.45))]
    assert advice(parts, finds_best=[False, True]).row == 1
    rows = table(parts, finds_best=[False, True])
    assert [(row.frontier, row.choice) for row in rows] == [(False, False), (True, True)]
    assert advice(parts, finds_best=[False, False]).row is None


def test_advice_that_needs_a_scorer_says_so() -> None:
    assert "asks for ratings" in advice([played(10, noise(0, 0.5), ratings=8)]).reason
    assert "asks for ratings" not in advice([played(10, noise(0, 0.5))]).reason


@pytest.mark.parametrize("price", [0, -1, math.nan, math.inf, "2"])
def test_a_price_is_above_zero(price: Any) -> None:
    with pytest.raises(ConfigError, match=f"rating {price}: must be above 0"):
        Prices(rating=price)
