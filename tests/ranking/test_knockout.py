"""Knockout: rounds, byes, the last loser, failed duels, slots, figures."""

from functools import partial

import numpy as np
import pytest
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.run import drive
from prefine.ranking.strategies.knockout import knockout

NAN = float("nan")


def run(table, **options) -> Outcome:
    return table_world(table).run(partial(knockout, **options))[0]


@pytest.mark.parametrize("m", range(2, 34))
def test_duels_and_rounds_are_the_declared_ones(m):
    world = table_world(transitive_table(np.random.default_rng(m).permutation(m)))
    world.run(partial(knockout, order="single"))
    assert (world.calls, world.rounds) == (m - 1, int(np.ceil(np.log2(m))))
    facts = facts_of(knockout)
    assert (facts.max_asks(m, order="single"), facts.rounds(m, order="single")) == (
        m - 1,
        world.rounds,
    )
    assert (facts.max_asks(m, order="both"), facts.rounds(m, order="both")) == (
        2 * (m - 1),
        world.rounds,
    )
    assert (facts.max_asks(m), facts.rounds(m)) == (2 * (m - 1), 2 * world.rounds)


@pytest.mark.parametrize("m", [3, 5, 9, 13, 17, 31])
def test_nobody_has_two_byes_in_a_row(m):
    strategy = knockout(m, order="single")
    asked, alive, had_bye = next(strategy), set(range(m)), set()
    while True:
        meeting = {index for duel in asked for index in duel}
        bye = alive - meeting
        assert len(bye) == len(alive) % 2
        assert not bye & had_bye
        had_bye = bye
        alive -= {duel.second for duel in asked}
        try:
            asked = strategy.send([1.0] * len(asked))
        except StopIteration:
            break
    assert len(alive) == 1


def test_last_loser_is_whom_the_champion_beat_last():
    assert run(transitive_table([3, 0, 1, 2])) == Outcome(champion=0, last_loser=3)
    assert run(transitive_table([0, 3, 2, 1])) == Outcome(champion=1, last_loser=2)


def test_a_tie_keeps_the_lower_index():
    assert run(np.full((4, 4), 0.5)) == Outcome(champion=0, last_loser=2)


def test_whoever_has_won_more_goes_on_from_a_failed_duel():
    table = transitive_table([0, 1, 3, 2])
    table[0, 1] = table[1, 0] = NAN  # 0 goes on, without a win
    table[0, 2] = table[2, 0] = NAN  # 2 has beaten 3
    assert run(table) == Outcome(champion=2, last_loser=3)
    table = transitive_table([3, 1, 2, 0])
    table[0, 2] = table[2, 0] = NAN  # both have won once
    assert run(table) == Outcome(champion=0, last_loser=1)


@pytest.mark.parametrize("seed", range(50))
def test_there_is_a_champion_if_any_duel_had_a_verdict(seed):
    rng = np.random.default_rng(seed)
    answered = 0

    def answer(asks):
        nonlocal answered
        answers = [None if rng.random() < 0.9 else rng.random() for _ in asks]
        answered += sum(p is not None for p in answers)
        return answers

    (outcome,) = drive({"a": knockout(9, order="single")}, answer).values()
    assert (outcome.champion is not None) == (answered > 0) == (outcome.last_loser is not None)


def test_single_shows_first_whom_it_has_shown_first_less_often():
    strategy = knockout(4, order="single")
    assert next(strategy) == [Duel(0, 1), Duel(2, 3)]
    assert strategy.send([1.0, 0.0]) == [Duel(3, 0)]
    strategy = knockout(4, order="single")
    next(strategy)
    assert strategy.send([0.0, 1.0]) == [Duel(1, 2)]


@pytest.mark.torture
def test_figures_of_the_simulated_judge():
    world = noisy_world(6_000, 8, sigma=np.sqrt(2), bias=0.5, soft=False, seed=5)
    outcomes = world.run(partial(knockout, order="single"))
    # Three standard errors, of the figure and of this sample.
    assert world.p_best(outcomes) == pytest.approx(0.46, abs=3 * np.hypot(0.011, 0.0064))
    assert world.regret(outcomes) == pytest.approx(0.41, abs=3 * np.hypot(0.012, 0.007))
