"""Round robin: balance, scores, ties, missing duels, cycles, figures."""

from functools import partial
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.fitting.bradley_terry import fit_duels
from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.strategies.round_robin import balanced_duels, round_robin

ORDERS = ("single", "both", "average")
orders = st.sampled_from(ORDERS)
NAN = float("nan")


def run(table, **options) -> Outcome:
    return table_world(table).run(partial(round_robin, **options))[0]


def antisymmetric(m: int, seed: int, *, hard: bool) -> np.ndarray:
    """A judge without preference for a slot: p[i, j] = 1 - p[j, i]."""
    upper = np.triu(np.random.default_rng(seed).random((m, m)), 1)
    upper = (upper > 0.5).astype(float) if hard else upper
    return upper + np.tril(1 - upper.T, -1)


@pytest.mark.parametrize("m", range(2, 34))
def test_every_pair_meets_once_and_everyone_is_first_half_of_the_time(m):
    duels = balanced_duels(m)
    assert sorted(tuple(sorted(duel)) for duel in duels) == list(combinations(range(m), 2))
    first = np.bincount([duel.first for duel in duels], minlength=m)
    assert np.abs(first - (m - 1) / 2).max() <= (0 if m % 2 else 0.5)


@given(quality=st.integers(2, 9).flatmap(lambda m: st.permutations(range(m))), order=orders)
def test_noiseless_judge_gives_the_whole_order(quality, order):
    m = len(quality)
    world = table_world(transitive_table(quality))
    (outcome,) = world.run(partial(round_robin, order=order))
    best_first = tuple(int(i) for i in np.argsort(quality)[::-1])
    assert outcome.order == best_first
    assert (outcome.champion, outcome.worst) == (best_first[0], best_first[-1])
    assert outcome.scores == pytest.approx([q / (m - 1) for q in quality])
    assert outcome.cyclic_triads == 0
    facts = facts_of(round_robin)
    assert (world.calls, world.rounds) == (
        facts.max_asks(m, order=order),
        facts.rounds(m, order=order),
    )


@given(m=st.integers(2, 7), seed=st.integers(0, 999), order=orders, data=st.data())
def test_the_order_of_the_completions_does_not_matter(m, seed, order, data):
    permutation = data.draw(st.permutations(range(m)))
    table = antisymmetric(m, seed, hard=False)
    one, other = run(table, order=order), run(table[np.ix_(permutation, permutation)], order=order)
    assert tuple(permutation[i] for i in other.order) == one.order
    assert [one.scores[i] for i in permutation] == pytest.approx(other.scores)
    assert other.cyclic_triads == one.cyclic_triads


@given(
    answers=st.integers(2, 6).flatmap(
        lambda m: st.lists(
            st.sampled_from((0.0, 0.4, 0.5, 1.0, NAN)), min_size=m * m, max_size=m * m
        )
    ),
    order=orders,
)
def test_any_judge_gives_a_lawful_outcome(answers, order):
    m = round(len(answers) ** 0.5)
    outcome = run(np.array(answers).reshape(m, m), order=order)
    assert (outcome.order is None) == (outcome.scores is None)
    if outcome.order is not None:
        assert sorted(outcome.order) == list(range(m))
        assert (outcome.order[0], outcome.order[-1]) == (outcome.champion, outcome.worst)
        assert outcome.scores[outcome.champion] == max(outcome.scores)
    if outcome.champion is None:
        assert outcome == Outcome()
    else:
        assert outcome.champion != outcome.worst
    if outcome.cyclic_triads is not None:
        assert sum(outcome.scores) == pytest.approx(m / 2)


@pytest.mark.parametrize("order", ["both", "average"])
def test_judge_that_looks_at_the_slot_only_makes_everything_tie(order):
    outcome = run(np.full((4, 4), 1.0), order=order)
    assert outcome == Outcome(
        champion=0, worst=3, order=(0, 1, 2, 3), scores=(0.5,) * 4, cyclic_triads=0
    )


def test_both_ties_where_average_decides():
    table = np.full((2, 2), NAN)
    table[0, 1], table[1, 0] = 0.9, 0.6
    assert run(table, order="both").scores == (0.5, 0.5)
    assert run(table, order="both").champion == 0  # equal scores: the mean P(better) decides
    assert run(table, order="average").scores == (1.0, 0.0)


@given(p=st.floats(0, 1))
@example(p=0.13)
def test_opposite_answers_average_to_a_tie_in_floating_point_too(p):
    assert run(np.full((2, 2), p), order="average").scores == (0.5, 0.5)


def test_missing_duels_are_excluded_from_the_mean():
    table = transitive_table([3, 2, 1, 0])
    table[0, 1] = table[1, 0] = NAN
    outcome = run(table)
    assert outcome.scores == pytest.approx((1.0, 1.0, 1 / 3, 0.0))
    assert outcome.order == (0, 1, 2, 3)
    assert outcome.cyclic_triads is None


def test_completion_without_any_answer_has_no_place():
    table = transitive_table([3, 2, 1, 0])
    table[0, :] = table[:, 0] = NAN
    assert run(table) == Outcome(champion=1, worst=3)


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_answered_finds_nothing(order):
    assert run(np.full((3, 3), NAN), order=order) == Outcome()


def test_one_order_without_the_other_is_missing():
    table = transitive_table([1, 0])
    table[1, 0] = NAN
    assert run(table, order="both") == run(table, order="average") == Outcome()


@pytest.mark.parametrize("seed", range(20))
def test_cyclic_triads_are_counted_one_by_one(seed):
    m = 7
    table = antisymmetric(m, seed, hard=True)
    if seed % 2:
        table[2, 5] = table[5, 2] = table[0, 1] = table[1, 0] = 0.5
    loops = sum(
        table[a, b] == table[b, c] == table[c, a] == 1
        for a, b, c in permutations(range(m), 3)
        if a == min(a, b, c)
    )
    assert run(table).cyclic_triads == loops


def test_a_pure_cycle_has_every_possible_triad():
    cyclic = [[float(0 < (j - i) % 5 <= 2) for j in range(5)] for i in range(5)]
    outcome = run(cyclic)
    assert outcome.cyclic_triads == comb(5, 3) - 5 * comb(2, 2) == 5
    assert outcome.scores == (0.5,) * 5


@pytest.mark.parametrize("m", [0, 1])
def test_fewer_than_two_completions_are_refused(m):
    with pytest.raises(ValueError, match="at least 2 completions"):
        round_robin(m)


@pytest.mark.torture
def test_figures_of_the_simulated_judge():
    world = noisy_world(3_000, 8, sigma=np.sqrt(2), bias=0.5, soft=False, seed=4)
    outcomes = world.run(round_robin)
    assert world.calls == 28 * 3_000
    assert world.p_best(outcomes) == pytest.approx(0.53, abs=3 * np.hypot(0.011, 0.009))
    assert world.regret(outcomes) == pytest.approx(0.29, abs=3 * np.hypot(0.012, 0.009))


@pytest.mark.parametrize("order", ["single", "both", "average"])
def test_bradley_terry_scores_are_the_fit_of_every_answer(order):
    world = noisy_world(1, 6, sigma=1.0, bias=0.5, soft=True, seed=4)
    (outcome,) = world.run(lambda m: round_robin(m, order=order, scores="bradley_terry"))
    (copeland,) = world.run(lambda m: round_robin(m, order=order))
    duels = balanced_duels(6)
    duels = duels if order == "single" else [*duels, *(Duel(b, a) for a, b in duels)]
    fit = fit_duels(6, duels, [float(world.p_first[0][duel]) for duel in duels])
    assert outcome.scores == pytest.approx(fit.scores.tolist(), abs=1e-8)
    assert outcome.standard_errors == pytest.approx(fit.standard_errors.tolist(), abs=1e-8)
    assert outcome.score_unit == "log_odds"
    assert outcome.order == tuple(np.argsort(-fit.scores)) and outcome.champion == outcome.order[0]
    assert outcome.worst == outcome.order[-1] and outcome.cyclic_triads == copeland.cyclic_triads


def test_bradley_terry_scores_need_an_answer_for_everyone():
    table = transitive_table([3, 2, 1, 0])
    table[3, :] = table[:, 3] = np.nan
    (outcome,) = table_world(table).run(lambda m: round_robin(m, scores="bradley_terry"))
    assert outcome.champion == 0 and outcome.scores is None and outcome.order is None
