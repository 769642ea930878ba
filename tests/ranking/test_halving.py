"""Halving: the best of a noiseless judge always, declared calls, scores, failures, regret."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.protocol import Outcome, facts_of
from prefine.ranking.strategies.halving import halving


def play(m, answer, **options):
    """The rounds asked and the outcome, for any way of answering."""
    strategy = halving(m, **options)
    rounds = []
    answers = None
    while True:
        try:
            asked = next(strategy) if answers is None else strategy.send(answers)
        except StopIteration as end:
            return rounds, end.value
        rounds.append(asked)
        answers = [answer(duel) for duel in asked]


@pytest.mark.parametrize("m", range(2, 7))
def test_every_order_of_a_noiseless_judge_gives_its_best(m):
    for quality in permutations(range(m)):
        _, outcome = play(m, lambda d, quality=quality: float(quality[d.first] > quality[d.second]))
        assert outcome.champion == np.argmax(quality)


@given(
    quality=st.integers(2, 12).flatmap(
        lambda m: st.lists(st.integers(0, m), min_size=m, max_size=m)
    ),
    scale=st.sampled_from((0.01, 1.0, 1000.0)),
    bias=st.sampled_from((-1.3, 0.0, 0.6)),
    prior_sd=st.sampled_from((0.1, 1.5, 10.0)),
)
def test_a_noiseless_judge_with_ties_and_a_known_bias_gives_a_best(quality, scale, bias, prior_sd):
    def judge(duel):
        z = scale * (quality[duel.first] - quality[duel.second]) + bias
        return 0.5 + 0.5 * float(np.tanh(z / 2))

    # A soft verdict of .5 that hides a bias is told from a tie by nothing: such qualities are not
    # drawn.
    assert all(scale * (a - b) + bias != 0 for a in quality for b in quality if a != b)
    _, outcome = play(len(quality), judge, first_slot_bias=bias, prior_sd=prior_sd)
    assert quality[outcome.champion] == max(quality)
    assert sum(outcome.scores) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("m", "calls"), [(2, 2), (3, 5), (4, 6), (5, 10), (8, 14), (16, 30), (32, 62)]
)
def test_about_two_duels_per_completion_are_declared(m, calls):
    assert facts_of(halving).max_asks(m) == calls
    assert facts_of(halving).rounds(m) == np.ceil(np.log2(m))


@given(m=st.integers(2, 20), seed=st.integers(0, 999))
def test_each_order_of_a_pair_is_asked_once_within_the_declared_calls(m, seed):
    rng = np.random.default_rng(seed)
    rounds, outcome = play(m, lambda duel: rng.choice([0.0, 0.5, 1.0]))
    duels = [duel for round_ in rounds for duel in round_]
    assert len(set(duels)) == len(duels) <= facts_of(halving).max_asks(m)
    assert len(rounds) <= facts_of(halving).rounds(m)
    assert all(rounds)
    assert len(rounds[0]) == m
    assert outcome.order is None and len(outcome.scores) == len(outcome.standard_errors) == m


def test_a_completion_without_any_answer_has_no_place():
    table = transitive_table([3, 2, 1, 0])
    table[0, :] = table[:, 0] = np.nan
    assert table_world(table).run(halving) == [Outcome(champion=1)]
    assert table_world(np.full((4, 4), np.nan)).run(halving) == [Outcome()]


@pytest.mark.parametrize("m", [-1, 1])
def test_fewer_than_two_completions_are_refused(m):
    with pytest.raises(ValueError, match=f"at least 2 completions, got {m}"):
        halving(m)


@pytest.mark.torture
def test_regret_of_the_simulated_judge():
    """No worse than a knockout, which takes half of the calls, to three standard errors (.48 at
    M = 16).
    """
    world = noisy_world(1_000, 16, sigma=np.sqrt(2), bias=0.5, soft=False, seed=4)
    regret = world.regret(world.run(partial(halving, first_slot_bias=0.85)))
    print(f"halving, M = 16, hard verdicts: regret {regret:.3f} in {world.calls / 1_000:.1f} calls")
    assert regret < 0.48
