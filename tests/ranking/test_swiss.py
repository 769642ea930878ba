"""Swiss: pairings without repetition, balance, byes, declared calls, scores."""

from collections import Counter
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.fitting.bradley_terry import fit_duels
from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.strategies.swiss import pairing, swiss


def play(m, answer, **options):
    """The rounds asked and the outcome, for any way of answering."""
    strategy = swiss(m, **options)
    rounds: list[list[Duel]] = []
    answers = None
    while True:
        try:
            asked = next(strategy) if answers is None else strategy.send(answers)
        except StopIteration as end:
            return rounds, end.value
        rounds.append(asked)
        answers = [answer(duel) for duel in asked]


@given(m=st.integers(2, 33), num_rounds=st.none() | st.integers(1, 40), seed=st.integers(0, 99))
def test_everyone_plays_in_every_round_and_nobody_meets_twice(m, num_rounds, seed):
    rng = np.random.default_rng(seed)
    rounds, outcome = play(m, lambda duel: float(rng.random() < 0.5), num_rounds=num_rounds)
    facts = facts_of(swiss)
    assert len(rounds) == facts.rounds(m, num_rounds=num_rounds)
    assert sum(map(len, rounds)) == facts.max_asks(m, num_rounds=num_rounds)
    duels = [duel for round_ in rounds for duel in round_]
    assert len({frozenset(duel) for duel in duels}) == len(duels)
    byes: Counter[int] = Counter()
    for round_ in rounds:
        players = [player for duel in round_ for player in duel]
        assert len(set(players)) == len(players) == m - m % 2
        byes.update(set(range(m)) - set(players))
    assert max(byes.values(), default=0) <= 1
    assert sorted(outcome.order) == list(range(m))


@pytest.mark.parametrize(
    ("m", "rounds"), [(2, 1), (3, 3), (4, 3), (5, 3), (6, 3), (7, 4), (8, 4), (16, 5), (32, 6)]
)
def test_default_rounds(m, rounds):
    assert facts_of(swiss).rounds(m) == rounds
    assert facts_of(swiss).max_asks(m, order="both") == 2 * rounds * (m // 2)


def test_the_first_round_is_by_seed_and_later_ones_by_score():
    rounds, _ = play(8, lambda duel: float(duel.first > duel.second))
    assert rounds[0] == [Duel(0, 1), Duel(2, 3), Duel(4, 5), Duel(6, 7)]
    # Winners 1, 3, 5, 7 meet, and losers meet; all were first once or never, the losers once.
    assert {frozenset(duel) for duel in rounds[1]} == {
        frozenset(pair) for pair in ((1, 3), (5, 7), (0, 2), (4, 6))
    }


def test_who_was_first_less_often_is_first():
    rounds, _ = play(16, lambda duel: 1.0)
    times_first: Counter[int] = Counter()
    for round_ in rounds:
        for duel in round_:
            assert times_first[duel.first] <= times_first[duel.second]
        times_first.update(duel.first for duel in round_)


def test_the_noiseless_best_leads():
    rng = np.random.default_rng(5)
    for m in range(2, 14):
        quality = rng.permutation(m)
        (outcome,) = table_world(transitive_table(quality)).run(partial(swiss, num_rounds=20))
        if m <= 4:
            assert outcome.order == tuple(np.argsort(-quality))
        assert outcome.order[0] == np.argmax(quality)


def test_scores_are_the_fit_of_the_duels_with_the_known_bias():
    table = noisy_world(1, 9, sigma=1.0, bias=0.5, soft=True, seed=2).p_first[0]
    for order in ("single", "both"):
        rounds, outcome = play(
            9, lambda d: float(table[d]), order=order, first_slot_bias=1.5, prior_sd=0.8
        )
        duels = [duel for round_ in rounds for duel in round_]
        fit = fit_duels(
            9, duels, [float(table[d]) for d in duels], first_slot_bias=1.5, prior_sd=0.8
        )
        assert outcome.scores == pytest.approx(fit.scores, abs=1e-9)
        assert outcome.standard_errors == pytest.approx(fit.standard_errors, abs=1e-9)
        assert outcome.order == tuple(np.argsort(-fit.scores))
        assert outcome.champion is None and outcome.worst is None


def test_both_orders_are_asked_in_the_same_round():
    rounds, _ = play(8, lambda duel: 1.0, order="both")
    for round_ in rounds:
        assert {Duel(second, first) for first, second in round_} == set(round_)


def test_leftovers_break_up_a_pair():
    met = {frozenset(pair) for pair in ((2, 3), (0, 2))}
    assert sorted(pairing([0, 1, 2, 3], met)) == [(0, 3), (1, 2)]


@given(data=st.data(), n=st.sampled_from((4, 6, 8, 10, 16)))
def test_any_half_of_a_tournament_can_go_on(data, n):
    """Rounds by arbitrary standings: there is always another full round, up to n / 2 rounds."""
    met: set[frozenset[int]] = set()
    for _ in range(n // 2):
        pairs = pairing(data.draw(st.permutations(range(n))), met)
        assert sorted(player for pair in pairs for player in pair) == list(range(n))
        assert not met & {frozenset(pair) for pair in pairs}
        met |= {frozenset(pair) for pair in pairs}


def test_all_pairs_of_four_are_met_in_three_rounds():
    rounds, _ = play(4, lambda duel: 1.0, num_rounds=9)
    assert {frozenset(duel) for round_ in rounds for duel in round_} == set(
        map(frozenset, combinations(range(4), 2))
    )


def test_a_completion_without_any_answer_leaves_no_order():
    table = transitive_table(range(6))
    table[2, :] = table[:, 2] = np.nan
    assert table_world(table).run(swiss) == [Outcome()]


@pytest.mark.parametrize(
    ("m", "num_rounds", "message"),
    [
        (1, None, "completions, got 1"),
        (0, 2, "completions, got 0"),
        (5, 0, "at least 1 round, got 0"),
    ],
)
def test_too_few_are_refused(m, num_rounds, message):
    with pytest.raises(ValueError, match=message):
        swiss(m, num_rounds=num_rounds)
