"""Iterative ranking: finds the best, keeps its word on calls, survives every judge, and reaches
its figures.
"""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_worlds import World, noisy_world, table_world, transitive_table

from prefine.ranking.protocol import Outcome, facts_of
from prefine.ranking.strategies.iterative import iterative
from reference import scan_p_best

ORDERS = ("single", "both", "lazy")
orders = st.sampled_from(ORDERS)
biases = st.sampled_from((-1.0, 0.0, 1.0))
qualities = st.integers(2, 9).flatmap(lambda m: st.permutations(range(m)))


@st.composite
def tables(draw) -> np.ndarray:
    """Any judge: ties, contradictions, cycles, failed calls."""
    m = draw(st.integers(2, 7))
    answers = st.sampled_from((0.0, 0.2, 0.5, 0.9, 1.0, np.nan))
    return np.array(draw(st.lists(answers, min_size=m * m, max_size=m * m))).reshape(m, m)


def declared(name: str, m: int, **options) -> int:
    return getattr(facts_of(iterative), name)(m, **options)


@given(quality=qualities, order=orders, bias=biases)
def test_noiseless_transitive_judge_finds_the_best_in_m_minus_1_duels(quality, order, bias):
    world = table_world(transitive_table(quality))
    (outcome,) = world.run(partial(iterative, order=order, first_slot_bias=bias))
    m = len(quality)
    assert outcome.champion == np.argmax(quality)
    assert outcome.last_loser is not None
    assert outcome.last_loser != outcome.champion
    changes = sum(quality[k] > max(quality[:k]) for k in range(1, m))
    assert world.calls == {"single": m - 1, "both": 2 * (m - 1), "lazy": m - 1 + changes}[order]


@given(table=tables(), order=orders, bias=biases)
def test_any_judge_ends_within_the_declared_calls_and_rounds(table, order, bias):
    world = table_world(table)
    (outcome,) = world.run(partial(iterative, order=order, first_slot_bias=bias))
    assert world.calls <= declared("max_asks", len(table), order=order, first_slot_bias=bias)
    assert world.rounds <= declared("rounds", len(table), order=order, first_slot_bias=bias)
    assert (outcome.champion is None) == (outcome.last_loser is None)
    assert outcome.champion is None or outcome.champion != outcome.last_loser


@given(table=tables(), bias=biases)
def test_lazy_and_both_have_the_same_outcome_under_any_judge(table, bias):
    (of_both,) = table_world(table).run(partial(iterative, order="both"))
    (of_lazy,) = table_world(table).run(partial(iterative, order="lazy", first_slot_bias=bias))
    assert of_lazy == of_both


@given(quality=qualities, order=orders, data=st.data())
def test_the_order_of_the_completions_does_not_change_the_champion(quality, order, data):
    permutation = data.draw(st.permutations(range(len(quality))))
    table = transitive_table(quality)
    shuffled = table[np.ix_(permutation, permutation)]
    (one,) = table_world(table).run(partial(iterative, order=order))
    (other,) = table_world(shuffled).run(partial(iterative, order=order))
    assert permutation[other.champion] == one.champion


@pytest.mark.parametrize("m", [3, 5, 8])
@pytest.mark.parametrize("order", ORDERS)
def test_cyclic_judge_ends_after_exactly_m_minus_1_duels(m, order):
    cyclic = [[float((j - i) % m <= m // 2) for j in range(m)] for i in range(m)]
    world = table_world(cyclic)
    (outcome,) = world.run(partial(iterative, order=order))
    assert m - 1 <= world.calls <= declared("max_asks", m, order=order)
    assert outcome.champion is not None


@pytest.mark.parametrize("verdict", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("order", ["both", "lazy"])
def test_judge_that_looks_at_the_slot_only_keeps_the_champion(verdict, order):
    (outcome,) = table_world(np.full((6, 6), verdict)).run(partial(iterative, order=order))
    assert outcome == Outcome(champion=0, last_loser=5)


@pytest.mark.parametrize("bias", [1.0, -1.0])
def test_lazy_shows_the_champion_in_the_slot_that_the_judge_favours(bias):
    world = table_world(np.full((6, 6), float(bias > 0)))
    world.run(partial(iterative, order="lazy", first_slot_bias=bias))
    assert world.calls == 5
    world.run(partial(iterative, order="lazy", first_slot_bias=-bias))
    assert world.calls == 10


def test_all_failed_finds_nothing():
    for order in ORDERS:
        assert table_world(np.full((4, 4), np.nan)).run(partial(iterative, order=order)) == [
            Outcome()
        ]


def test_failed_duel_is_passed_over():
    table = transitive_table([1, 9, 2, 0])
    table[0, 1] = table[1, 0] = np.nan
    (outcome,) = table_world(table).run(iterative)
    assert outcome == Outcome(champion=2, last_loser=3)


def test_last_loser_is_the_loser_of_the_last_duel_that_the_final_champion_won():
    assert table_world(transitive_table([0, 1, 2])).run(iterative)[0] == Outcome(
        champion=2, last_loser=1
    )
    assert table_world(transitive_table([2, 0, 1])).run(iterative)[0] == Outcome(
        champion=0, last_loser=2
    )
    table = transitive_table([2, 0, 1])
    table[0, 2] = table[2, 0] = np.nan
    assert table_world(table).run(iterative)[0] == Outcome(champion=0, last_loser=1)


@pytest.mark.parametrize("m", [-1, 0, 1])
def test_fewer_than_two_completions_are_refused(m):
    with pytest.raises(ValueError, match=f"at least 2 completions, got {m}"):
        iterative(m)


def test_declared_calls_and_rounds_by_order():
    asks = {
        order: (declared("max_asks", 8, order=order), declared("rounds", 8, order=order))
        for order in ORDERS
    }
    assert asks == {"single": (7, 7), "both": (14, 7), "lazy": (14, 14)}
    assert (declared("max_asks", 8), declared("rounds", 8)) == asks["lazy"]


@pytest.mark.torture
@pytest.mark.parametrize(("bias", "soft"), [(0.5, False), (-0.5, True)], ids=["hard", "soft"])
def test_lazy_finds_the_champions_of_both_for_fewer_calls(soft, bias):
    world = noisy_world(10_000, 8, sigma=np.sqrt(2), bias=bias, soft=soft, seed=1)
    of_both = world.run(partial(iterative, order="both"))
    calls_of_both = world.calls
    of_lazy = world.run(partial(iterative, order="lazy", first_slot_bias=bias))
    share = world.calls / calls_of_both
    print(
        f"lazy asks {100 * share:.1f} % of the calls of both (bias {bias}, "
        f"{'soft' if soft else 'hard'} verdicts)"
    )
    assert of_lazy == of_both
    assert share <= 0.85


@pytest.mark.torture
@pytest.mark.parametrize(
    ("order", "calls", "p_best", "regret"), [("single", 7.0, 0.42, 0.54), ("lazy", 8.8, 0.49, 0.38)]
)
def test_figures_of_the_simulated_judge(order, calls, p_best, regret):
    prompts = 10_000
    world = noisy_world(prompts, 8, sigma=np.sqrt(2), bias=0.5, soft=False, seed=2)
    outcomes = world.run(partial(iterative, order=order, first_slot_bias=0.5))
    # Three standard errors: of the figure (1.1 points, .012 sd, the last digit of the calls) and of
    # this sample.
    assert world.calls / prompts == pytest.approx(calls, abs=0.1)
    assert world.p_best(outcomes) == pytest.approx(p_best, abs=3 * np.hypot(0.011, 0.005))
    assert world.regret(outcomes) == pytest.approx(regret, abs=3 * np.hypot(0.012, 0.006))


@pytest.mark.torture
@pytest.mark.parametrize(("m", "q", "prompts"), [(5, 0.9, 40_000), (4, 0.7, 10_000)])
def test_chance_of_the_best_under_independent_verdicts_is_the_formula(m, q, prompts):
    rng = np.random.default_rng(3)
    quality = rng.normal(size=(prompts, m))
    right = np.triu(rng.random((prompts, m, m)) < q, 1)
    right |= right.transpose(0, 2, 1)
    world = World(
        quality, ((quality[:, :, None] > quality[:, None, :]) == right).astype(np.float64)
    )
    found = world.p_best(world.run(partial(iterative, order="single")))
    expected = scan_p_best(m, q)
    assert found == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / prompts))


def test_the_formula_has_its_published_value():
    assert scan_p_best(5, 0.9) == pytest.approx(0.75024, abs=1e-12)
