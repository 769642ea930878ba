"""Ratings pick the few, duels decide: who is in, who wins, what breaks a tie, what failed calls
do.
"""

from itertools import permutations

import numpy as np
import pytest

from prefine.ranking.protocol import Duel, Outcome, Rate, facts_of
from prefine.ranking.run import drive
from prefine.ranking.strategies.score_then_duel import score_then_duel


def run(ratings, p_first, **options):
    """The outcome, and the duels that were asked; p_first: by (first, second), else a tie."""
    rounds = []

    def answer(asks):
        rounds.append([ask for _, ask in asks])
        return [
            ratings[a.completion] if isinstance(a, Rate) else p_first.get(tuple(a), 0.5)
            for _, a in asks
        ]

    (outcome,) = drive({"a": score_then_duel(len(ratings), **options)}, answer).values()
    assert rounds[0] == [Rate(i) for i in range(len(ratings))]
    assert len(rounds) <= 2
    return outcome, [duel for asked in rounds[1:] for duel in asked]


@pytest.mark.parametrize(
    ("k", "top"), [(2, (1, 4)), (3, (1, 2, 4)), (4, (1, 2, 3, 4)), (9, (0, 1, 2, 3, 4))]
)
def test_the_best_rated_meet_in_both_orders(k, top):
    outcome, duels = run([0.0, 5.0, 2.0, 1.0, 4.0], {}, k=k)
    assert sorted(duels) == [Duel(*pair) for pair in permutations(top, 2)]
    assert outcome == Outcome(champion=1)  # all tie: the highest rating
    facts = facts_of(score_then_duel)
    assert (facts.max_asks(5, k=k), facts.max_ratings(5, k=k), facts.rounds(5, k=k)) == (
        5 + len(duels),
        5,
        2,
    )


def test_duels_overrule_ratings():
    wins = {(2, 0): 1.0, (0, 2): 0.0, (2, 1): 1.0, (1, 2): 0.0}
    assert run([3.0, 2.0, 1.0], wins, k=3)[0] == Outcome(champion=2)
    assert run([3.0, 2.0, 1.0], wins, k=2)[0] == Outcome(champion=0)


def test_both_orders_count():
    # 1 wins only where it is shown first: a tie, so the rating decides.
    assert run([2.0, 1.0], {(1, 0): 1.0, (0, 1): 1.0})[0] == Outcome(champion=0)
    # A win and a tie are more than half.
    assert run([2.0, 1.0], {(1, 0): 1.0, (0, 1): 0.5})[0] == Outcome(champion=1)


def test_equal_points_go_by_the_mean_chance():
    cyclic = {(0, 1): 0.9, (1, 0): 0.1, (1, 2): 0.7, (2, 1): 0.3, (2, 0): 0.6, (0, 2): 0.4}
    assert run([1.0, 3.0, 2.0], cyclic)[0] == Outcome(champion=0)


def test_equal_ratings_at_the_edge_let_the_lower_index_in():
    _, duels = run([1.0, 2.0, 1.0], {}, k=2)
    assert sorted(duels) == [(0, 1), (1, 0)]


def test_a_failed_rating_is_not_in_the_top():
    outcome, duels = run([None, 1.0, 2.0], {(1, 2): 1.0, (2, 1): 0.0})
    assert sorted(duels) == [(1, 2), (2, 1)]
    assert outcome == Outcome(champion=1)
    assert run([None, 1.0, None], {}) == (Outcome(), [])


def test_a_pair_with_a_failed_order_is_missing():
    # Without the pair (0, 1), 0 has a tie with 2 and 1 has lost to 2; 2 has one and a half of two.
    verdicts = {(0, 1): 1.0, (1, 0): None, (1, 2): 0.0, (2, 1): 1.0}
    assert run([3.0, 2.0, 1.0], verdicts)[0] == Outcome(champion=2)
    nothing = dict.fromkeys(permutations(range(3), 2))
    assert run([1.0, 3.0, 2.0], nothing)[0] == Outcome(champion=1)
    # Whoever has no pair at all cannot be the champion.
    alone = {(0, 1): None, (0, 2): None, (1, 2): 0.2, (2, 1): 0.8}
    assert run([3.0, 2.0, 1.0], alone)[0] == Outcome(champion=2)


def test_one_alone_is_no_duel():
    with pytest.raises(ValueError, match="k = 1"):
        score_then_duel(4, k=1)


@pytest.mark.torture
def test_figures_of_the_simulated_judge():
    """M = 8: 20 calls, P(best) 57 %, regret .24, of grades from 1 to 5 with ties at random."""
    from judge_worlds import noisy_world

    worlds, m = 3_000, 8
    world = noisy_world(worlds, m, sigma=np.sqrt(2), bias=0.5, soft=False, seed=7)
    noisy = world.quality + np.random.default_rng(8).normal(size=(worlds, m))
    grades = np.clip(np.round(2.5 + 0.9 * noisy), 1, 5)

    def answer(asks):
        return [
            grades[int(n), ask.completion]
            if isinstance(ask, Rate)
            else world.p_first[int(n), ask.first, ask.second]
            for n, ask in asks
        ]

    outcomes = list(drive({str(n): score_then_duel(m) for n in range(worlds)}, answer).values())
    assert world.p_best(outcomes) == pytest.approx(0.57, abs=3 * np.hypot(0.011, 0.009))
    assert world.regret(outcomes) == pytest.approx(0.24, abs=3 * np.hypot(0.012, 0.007))
