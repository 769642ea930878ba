"""Top two: the best of a noiseless judge always, limits, unseen duels, stopping, figures."""

from functools import partial
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_worlds import noisy_world, table_world, transitive_table

from prefine.ranking.fitting.bradley_terry import fit_duels
from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.strategies.top_two import top_two

FACTS = facts_of(top_two)


def play(m, answer, **options):
    """The rounds asked and the outcome, for any way of answering."""
    strategy = top_two(m, **options)
    rounds = []
    answers = None
    while True:
        try:
            asked = next(strategy) if answers is None else strategy.send(answers)
        except StopIteration as end:
            return rounds, end.value
        rounds.append(asked)
        answers = [answer(duel) for duel in asked]


@pytest.mark.parametrize("m", range(2, 6))
def test_every_order_of_a_noiseless_judge_gives_its_best(m):
    for quality in permutations(range(m)):
        for limit in (m - 1, m, None, 3 * m):
            _, outcome = play(
                m,
                lambda d, quality=quality: float(quality[d.first] > quality[d.second]),
                limit=limit,
            )
            assert outcome.champion == np.argmax(quality)


@given(
    quality=st.integers(2, 12).flatmap(
        lambda m: st.lists(st.integers(0, m), min_size=m, max_size=m)
    ),
    scale=st.sampled_from((0.01, 1.0, 1000.0)),
    bias=st.sampled_from((-1.3, 0.0, 0.6)),
    prior_sd=st.sampled_from((0.1, 1.5, 10.0)),
    extra=st.integers(0, 30),
    stop_at=st.sampled_from((None, 0.5)),
)
def test_a_noiseless_judge_with_ties_and_a_known_bias_gives_a_best(
    quality, scale, bias, prior_sd, extra, stop_at
):
    def judge(duel):
        z = scale * (quality[duel.first] - quality[duel.second]) + bias
        return 0.5 + 0.5 * float(np.tanh(z / 2))

    m = len(quality)
    _, outcome = play(
        m, judge, first_slot_bias=bias, prior_sd=prior_sd, limit=m - 1 + extra, stop_at=stop_at
    )
    assert quality[outcome.champion] == max(quality)


def test_a_bye_into_the_final_is_enough():
    """Number 2 wins one close duel, number 0 a clear one before it: the fit alone would believe
    the latter.
    """
    strength = [1.0, -9.0, 1.02]
    _, outcome = play(
        3, lambda d: 0.5 + 0.5 * np.tanh(strength[d.first] - strength[d.second]), limit=2
    )
    assert outcome.champion == 2
    assert np.argmax(outcome.scores) == 0


@given(
    m=st.integers(2, 14),
    extra=st.none() | st.integers(0, 200),
    batch=st.none() | st.integers(1, 20),
    seed=st.integers(0, 999),
)
def test_exactly_the_declared_calls_and_rounds_and_no_duel_twice(m, extra, batch, seed):
    rng = np.random.default_rng(seed)
    options = {"limit": None if extra is None else m - 1 + extra, "batch": batch}
    rounds, outcome = play(m, lambda duel: rng.choice([0.0, 0.5, 1.0]), **options)
    duels = [duel for round_ in rounds for duel in round_]
    assert (
        len(set(duels))
        == len(duels)
        == FACTS.max_asks(m, **options)
        == min(2 * m - 2 if extra is None else m - 1 + extra, m * (m - 1))
    )
    assert len(rounds) == FACTS.rounds(m, **options)
    assert outcome.order is None and outcome.worst is None
    fit = fit_duels(m, duels, [None] * len(duels))
    assert len(outcome.scores) == len(outcome.standard_errors) == len(fit.scores)


def test_after_the_knockout_the_leader_meets_the_most_hopeful():
    rounds, _ = play(8, lambda d: float(d.first > d.second))
    assert [len(round_) for round_ in rounds] == [4, 2, 1, 2, 2, 2, 1]
    assert all(7 in duel for round_ in rounds[3:] for duel in round_)
    # 5 and 3 lost to 7 only.
    assert {player for duel in rounds[3] for player in duel} <= {7, 6, 5, 3}


def test_who_was_first_less_often_is_first():
    rounds, _ = play(8, lambda d: float(d.first > d.second))
    first = [duel.first == 7 for round_ in rounds for duel in round_ if 7 in duel]
    assert abs(2 * sum(first) - len(first)) <= 4


@pytest.mark.parametrize("call", [FACTS.max_asks, FACTS.rounds, top_two])
def test_a_limit_below_a_knockout_is_refused(call):
    with pytest.raises(ValueError, match="at least 7 for 8 completions, got 6"):
        call(8, limit=6)


@pytest.mark.parametrize(
    ("m", "options", "message"),
    [
        (1, {}, "at least 2 completions, got 1"),
        (4, {"batch": 0}, "got 0"),
        (4, {"stop_at": 0.0}, "stop_at"),
    ],
)
def test_wrong_options_are_refused(m, options, message):
    with pytest.raises(ValueError, match=message):
        top_two(m, **options)


def test_a_clear_leader_stops_it():
    judge = lambda d: float(d.first > d.second)  # noqa: E731
    asked = {
        stop_at: sum(map(len, play(8, judge, limit=56, stop_at=stop_at)[0]))
        for stop_at in (None, 20.0, 1.2, 0.8, 0.1)
    }
    assert asked[None] == asked[20.0] == 56
    assert 7 == asked[0.1] < asked[0.8] < asked[1.2] < 56


def test_the_lead_at_the_stop_is_that_of_the_fit():
    table = noisy_world(1, 8, sigma=0.5, bias=0.0, soft=False, seed=3).p_first[0]
    rounds, outcome = play(8, lambda d: float(table[d]), limit=56, stop_at=1.0)
    duels = [duel for round_ in rounds for duel in round_]
    assert 7 < len(duels) < 56

    def lead(duels: list[Duel]) -> float:
        """From the Hessian, duel by duel."""
        scores = fit_duels(8, duels, [float(table[d]) for d in duels]).scores
        hessian = np.eye(8) / 1.5**2
        for i, j in duels:
            q = 1 / (1 + np.exp(scores[j] - scores[i]))
            hessian[np.ix_([i, j], [i, j])] += q * (1 - q) * np.array([[1, -1], [-1, 1]])
        c, best = np.linalg.inv(hessian), int(np.argmax(scores))
        others = [i for i in range(8) if i != best]
        return min(
            (scores[best] - scores[i]) / np.sqrt(c[i, i] + c[best, best] - 2 * c[i, best])
            for i in others
        )

    assert lead(duels) > 1.0
    assert lead(duels[: len(duels) - len(rounds[-1])]) <= 1.0
    assert outcome.champion == np.argmax(outcome.scores)


def test_a_completion_without_any_answer_has_no_place():
    table = transitive_table([3, 2, 1, 0])
    table[0, :] = table[:, 0] = np.nan
    assert table_world(table).run(top_two) == [Outcome(champion=1)]
    assert table_world(np.full((4, 4), np.nan)).run(top_two) == [Outcome()]


@pytest.mark.torture
@pytest.mark.parametrize(
    ("m", "soft", "bias", "published"),
    [(8, False, 0.0, 0.35), (16, False, 0.0, 0.41), (8, True, 1.5, 0.28)],
)
def test_no_worse_than_the_figures_of_the_simulated_judge(m, soft, bias, published):
    prompts = 1_000
    world = noisy_world(prompts, m, sigma=np.sqrt(2), bias=0.5, soft=soft, seed=6)
    regret = world.regret(world.run(partial(top_two, first_slot_bias=bias)))
    print(
        f"top_two, M = {m}, {'soft' if soft else 'hard'} verdicts, bias {bias}: regret {regret:.3f}"
    )
    # Three standard errors: of the figure (.012 … .018) and of this sample.
    assert regret < published + 3 * np.hypot(0.015, 0.5 / np.sqrt(prompts))
