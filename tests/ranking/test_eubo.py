"""EUBO: keeps its word on calls and rounds, starts as it says, believes no more than it was
told, and is worth it.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_worlds import World, noisy_world, table_world, transitive_table

from prefine.ranking.fitting.belief import Belief
from prefine.ranking.noise import first_slot_logit
from prefine.ranking.protocol import Duel, Outcome, facts_of
from prefine.ranking.strategies.eubo import eubo
from prefine.ranking.strategies.iterative import iterative

FACTS = facts_of(eubo)
Judge = Callable[[Duel], float | None]
biases = st.sampled_from((-1.2, -0.1, 0.0, 0.3, 0.8))


class Game(NamedTuple):
    """The rounds that were asked, the answers to them, and what came out."""

    rounds: list[list[Duel]]
    answers: list[list[float | None]]
    outcome: Outcome

    @property
    def duels(self) -> list[Duel]:
        return [duel for asked in self.rounds for duel in asked]

    @property
    def verdicts(self) -> list[tuple[Duel, float | None]]:
        return list(zip(self.duels, [p for answers in self.answers for p in answers], strict=True))


def play(m: int, judge: Judge, **options) -> Game:
    running = eubo(m, **options)
    rounds: list[list[Duel]] = []
    answers: list[list[float | None]] = []
    while True:
        try:
            rounds.append(running.send(answers[-1] if answers else None))
        except StopIteration as end:
            return Game(rounds, answers, end.value)
        answers.append([judge(duel) for duel in rounds[-1]])


def by_chance(seed: int, *choices: float | None) -> Judge:
    """Answers that depend on the seed and the duel alone."""
    return lambda duel: choices[int(np.random.default_rng((seed, *duel)).integers(len(choices)))]


def higher_index(duel: Duel) -> float:
    return float(duel.first > duel.second)


def lower_index_softly(duel: Duel) -> float:
    return 0.8 if duel.first < duel.second else 0.2


def stating(quality, bias: float = 0.0) -> Judge:
    """Margins without noise, as the judge of the simulations states them at accuracy .75."""
    return lambda d: (
        1 / (1 + math.exp(-3 * (quality[d.first] - quality[d.second]) / math.sqrt(2) - bias))
    )


def winner_of_the_start(game: Game) -> int:
    """The only one that lost none of the first M - 1 duels, of hard verdicts."""
    m = 1 + max(max(duel) for duel in game.duels)
    losers = {duel.second if p == 1 else duel.first for duel, p in game.verdicts[: m - 1]}
    (winner,) = set(range(m)) - losers
    return winner


def rounds_of_the_start(game: Game, m: int) -> list[int]:
    sizes = [len(asked) for asked in game.rounds]
    return sizes[: int(np.searchsorted(np.cumsum(sizes), m - 1)) + 1]


# Calls and rounds.


@pytest.mark.parametrize("m", [2, 3, 5, 8])
@pytest.mark.parametrize(
    "choices", [(0.0, 1.0), (0.1, 0.4, 0.9), (0.0, 0.3, 0.5, 1.0, None)], ids=str
)
@pytest.mark.parametrize("bias", [-1.0, 0.0, 0.5])
def test_without_a_stop_the_limit_is_spent_and_no_duel_is_asked_twice(m, choices, bias):
    for limit in (m - 1, 2 * m - 2, 3 * m, m * (m - 1), m * (m - 1) + 7, None):
        for batch in (1, 3):
            options = {"limit": limit, "stop_below": 0.0, "batch": batch, "first_slot_bias": bias}
            game = play(m, by_chance(m, *choices), **options)
            assert (
                len(game.duels)
                == min(3 * m if limit is None else limit, m * (m - 1))
                == FACTS.max_asks(m, **options)
            )
            assert len(set(game.duels)) == len(game.duels)
            assert len(game.rounds) <= FACTS.rounds(m, **options)


@given(
    m=st.integers(2, 9),
    extra=st.none() | st.integers(0, 80),
    batch=st.integers(1, 9),
    stop_below=st.sampled_from((0.0, 0.001, 0.05)),
    bias=biases,
    accuracy=st.sampled_from((0.501, 0.6, 0.75, 0.99)),
    order_noise=st.sampled_from((0.0, 0.3, 1.0)),
    choices=st.sampled_from(
        [(0.0, 1.0), (0.0, 1.0, None), (0.02, 0.5, 0.7, 1 - 1e-9), (0.0, 0.2, 1 - 3e-6, 1.0, None)]
    ),
    seed=st.integers(0, 999),
)
@settings(max_examples=150)
def test_any_answers_and_options_keep_to_the_facts(
    m, extra, batch, stop_below, bias, accuracy, order_noise, choices, seed
):
    options = {
        "limit": None if extra is None else m - 1 + extra,
        "batch": batch,
        "stop_below": stop_below,
        "first_slot_bias": bias,
        "accuracy": accuracy,
        "order_noise": order_noise,
    }
    game = play(m, by_chance(seed, *choices), **options)
    assert len(game.duels) <= FACTS.max_asks(m, **options)
    assert len(game.rounds) <= FACTS.rounds(m, **options)
    assert len(set(game.duels)) == len(game.duels) >= m - 1
    assert all(0 <= i < m and type(i) is int for duel in game.duels for i in duel)
    answered = {i for duel, p in game.verdicts if p is not None for i in duel}
    check_outcome(game.outcome, m, answered)


def check_outcome(outcome: Outcome, m: int, answered: set[int]) -> None:
    """A champion of those with an answer; scores and their errors if that is everyone; nothing
    else.
    """
    if not answered:
        assert outcome == Outcome()
        return
    assert outcome.champion in answered
    if len(answered) < m:
        assert outcome == Outcome(champion=outcome.champion)
        return
    assert len(outcome.scores) == len(outcome.standard_errors) == m
    assert sum(outcome.scores) == pytest.approx(0, abs=1e-6)
    assert min(outcome.standard_errors) > 0 and np.isfinite(outcome.standard_errors).all()
    assert outcome.score_unit == "log_odds"
    assert outcome.order is outcome.worst is outcome.last_loser is outcome.cyclic_triads is None


@pytest.mark.parametrize("order_noise", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("bias", [0.0, -2.0, 15.0, -40.0])
def test_it_survives_a_judge_that_contradicts_all_that_it_was_sure_of(order_noise, bias):
    m = 7
    for agreeing in range(4, 16):
        asked: list[Duel] = []

        def judge(duel, agreeing=agreeing, asked=asked):
            asked.append(duel)
            lower = 1 - 2e-6 if duel.first < duel.second else 2e-6
            return lower if len(asked) <= agreeing else higher_index(duel)

        options = {
            "accuracy": 0.97,
            "order_noise": order_noise,
            "first_slot_bias": bias,
            "limit": m * (m - 1),
        }
        with np.errstate(invalid="raise", divide="raise"):
            game = play(m, judge, stop_below=0.0, **options)
        assert len(set(game.duels)) == len(game.duels) == m * (m - 1)
        check_outcome(game.outcome, m, set(range(m)))


def test_the_same_answers_lead_to_the_same_duels_and_outcome():
    for choices in ((0.0, 1.0), (0.1, 0.5, 0.9, None)):
        one, other = (
            play(9, by_chance(5, *choices), batch=2, first_slot_bias=0.4) for _ in range(2)
        )
        assert one == other


@pytest.mark.parametrize("call", [FACTS.max_asks, FACTS.rounds, eubo])
@pytest.mark.parametrize(("m", "limit"), [(8, 6), (8, 1), (2, 0)])
def test_a_limit_below_a_start_is_refused(call, m, limit):
    with pytest.raises(ValueError, match=f"at least {m - 1} for {m} completions, got {limit}"):
        call(m, limit=limit)


@pytest.mark.parametrize("m", [-1, 0, 1])
def test_fewer_than_two_completions_are_refused(m):
    with pytest.raises(ValueError, match=f"at least 2 completions, got {m}"):
        eubo(m)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch", 0),
        ("batch", -2),
        ("accuracy", 0.5),
        ("accuracy", 1.0),
        ("accuracy", math.nan),
        ("order_noise", -0.1),
        ("order_noise", 1.1),
        ("stop_below", -0.01),
    ],
)
def test_options_out_of_their_bounds_are_refused_with_their_value(option, value):
    with pytest.raises(ValueError, match=str(value)):
        eubo(8, **{option: value})


@pytest.mark.parametrize("batch", [0, -2])
def test_rounds_of_no_duels_are_not_declared(batch):
    with pytest.raises(ValueError, match=f"batch.*{batch}"):
        FACTS.rounds(8, batch=batch)


@pytest.mark.parametrize(
    ("m", "limit", "batch", "rounds"), [(8, 24, 1, 20), (8, 24, 4, 8), (8, 24, 5, 7), (8, 7, 3, 7)]
)
def test_declared_rounds_are_those_of_a_knockout_and_batches(m, limit, batch, rounds):
    assert FACTS.rounds(m, limit=limit, batch=batch) == rounds


# The start.


@pytest.mark.parametrize("m", [2, 3, 5, 8, 13, 16])
@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_it_starts_with_a_knockout_when_there_is_enough_to_spend(m, bias):
    for judge in (higher_index, lower_index_softly, by_chance(m, 0.0, 1.0)):
        game = play(m, judge, limit=2 * m, first_slot_bias=bias)
        start = rounds_of_the_start(game, m)
        assert sum(start) == m - 1
        assert len(start) == math.ceil(math.log2(m))
        assert start[0] == m // 2


@pytest.mark.parametrize("bias", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(5))
def test_with_little_to_spend_and_a_biased_judge_the_champion_is_in_the_favoured_slot(bias, seed):
    m = 12
    game = play(m, by_chance(seed, 0.0, 1.0), limit=m, first_slot_bias=bias)
    assert rounds_of_the_start(game, m) == [1] * (m - 1)
    champion = 0
    for challenger, (duel, p_first) in enumerate(game.verdicts[: m - 1], start=1):
        assert duel == (Duel(champion, challenger) if bias > 0 else Duel(challenger, champion))
        champion = duel.first if p_first == 1 else duel.second


def test_with_little_to_spend_and_a_fair_judge_it_is_a_knockout():
    for bias in (0.0, 0.05, -0.05):
        game = play(12, by_chance(0, 0.0, 1.0), limit=12, first_slot_bias=bias)
        assert len(rounds_of_the_start(game, 12)) == 4


@pytest.mark.parametrize("bias", [1.0, -1.0])
@pytest.mark.parametrize("hard", [0, 1, 4])
def test_a_stated_margin_makes_a_knockout_of_the_rest_of_the_scan(bias, hard):
    m = 12
    asked: list[Duel] = []

    def judge(duel):
        asked.append(duel)
        # A challenger never wins, except by the first probability.
        favoured = duel.first if bias > 0 else duel.second
        wins_first = (favoured == duel.first) == (len(asked) != hard + 1)
        return float(wins_first) if len(asked) <= hard else (0.99 if wins_first else 0.01)

    game = play(m, judge, limit=m, first_slot_bias=bias)
    sizes = rounds_of_the_start(game, m)
    left = m - 1 - hard
    assert sizes[: hard + 1] == [1] * (hard + 1)
    assert sizes[hard + 1] == left // 2
    assert len(sizes) == hard + 1 + math.ceil(math.log2(left))
    # The one that the probability spoke for goes on, the other one is out.
    assert hard + 1 in {i for duel in game.rounds[hard + 1] for i in duel}
    assert 0 not in {
        i for asked in game.rounds[hard + 1 : len(sizes)] for duel in asked for i in duel
    }


def test_in_a_knockout_who_was_first_less_often_is_first():
    game = play(16, by_chance(1, 0.0, 1.0), limit=24)
    first = [0] * 16
    for duel in game.duels[:15]:
        assert first[duel.first] <= first[duel.second]
        first[duel.first] += 1


@pytest.mark.parametrize("m", [3, 5, 6, 7, 9, 11, 13, 17])
def test_nobody_has_two_byes_in_a_row(m):
    for seed in range(5):
        game = play(m, by_chance(seed, 0.0, 1.0), limit=2 * m)
        left, waited = set(range(m)), set()
        for asked, answers in list(zip(game.rounds, game.answers, strict=True))[
            : (m - 1).bit_length()
        ]:
            playing = {i for duel in asked for i in duel}
            assert not waited - playing
            waited = left - playing
            assert len(waited) == len(left) % 2
            left -= {
                duel.second if p == 1 else duel.first
                for duel, p in zip(asked, answers, strict=True)
            }


@pytest.mark.parametrize("bias", [-1.5, 0.0, 1.5])
def test_a_stated_probability_is_held_against_the_bias(bias):
    """A judge without noise, whose probabilities are all on the side of the slot that it
    favours.
    """
    m = 11
    for seed in range(5):
        quality = np.random.default_rng(seed).uniform(-0.2, 0.2, m)
        game = play(m, stating(quality, bias), limit=2 * m, first_slot_bias=bias)
        left = set(range(m))
        for asked in game.rounds[:4]:
            assert {i for duel in asked for i in duel} <= left
            left -= {min(duel, key=quality.__getitem__) for duel in asked}
        assert left == {int(np.argmax(quality))}


# After the start.


@pytest.mark.parametrize("batch", [2, 3, 5])
@pytest.mark.parametrize("choices", [(0.0, 1.0), (0.2, 0.6, 0.9)], ids=str)
def test_batches_take_fewer_rounds_for_the_same_duels(batch, choices):
    options = {"limit": 30, "stop_below": 0.0}
    one, many = (play(10, by_chance(2, *choices), batch=b, **options) for b in (1, batch))
    assert len(one.duels) == len(many.duels) == 30
    assert len(one.rounds) == FACTS.rounds(10, limit=30) == 4 + 21
    assert len(many.rounds) == FACTS.rounds(10, limit=30, batch=batch) == 4 + math.ceil(21 / batch)
    assert all(len(asked) == batch for asked in many.rounds[4:-1])
    assert all(len(set(asked)) == len(asked) for asked in many.rounds)


@pytest.mark.parametrize("bias", [0.8, -0.8])
@pytest.mark.parametrize("choices", [(0.0, 1.0), (0.2, 0.6, 0.9)], ids=str)
def test_the_better_one_stands_where_the_judge_does_not_favour(bias, choices):
    m, seen = 10, 0
    for seed in range(5):
        game = play(m, by_chance(seed, *choices), first_slot_bias=bias, stop_below=0.0)
        belief = Belief(m, 3 * m, accuracy=0.75, order_noise=0.5, first_slot_bias=bias)
        # The last duel is chosen by another rule.
        for number, (duel, p_first) in enumerate(game.verdicts[:-1]):
            lead = belief.mean[duel.first] - belief.mean[duel.second]
            other_order = Duel(duel.second, duel.first) in game.duels[:number]
            if number >= m - 1 and not other_order and abs(lead) > 1e-9:
                assert (lead < 0) == (bias > 0)
                seen += 1
            belief.take(duel, p_first)
    assert seen > 40


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("limit", "bias"), [(24, 0.0), (24, 0.7), (11, 0.7), (11, -0.7)])
def test_the_next_duel_has_the_better_side_that_promises_most(batch, limit, bias):
    """Of a batch, each as if the margins before it were known; near the end, what looks best
    after a sign counts.
    """
    m, judge = 8, {"accuracy": 0.65, "order_noise": 0.2, "first_slot_bias": bias}
    for seed in range(6):
        game = play(m, by_chance(seed, 0.0, 1.0), stop_below=0.0, limit=limit, batch=batch, **judge)
        belief = Belief(m, limit, **judge)
        open_pairs, count = ~np.eye(m, dtype=bool), 0
        for asked, answers in zip(game.rounds, game.answers, strict=True):
            supposed = belief.copy()
            for duel in asked if count >= m - 1 else []:
                last = count + len(asked) == limit
                values = (
                    supposed.best_after()
                    if last or (limit == 11 and bias)
                    else supposed.best_of_two()
                )
                assert values[duel] == pytest.approx(values[open_pairs].max(), abs=1e-5)
                open_pairs[duel] = False
                supposed.suppose(duel)
            for duel, p_first in zip(asked, answers, strict=True):
                open_pairs[duel] = False
                belief.take(duel, p_first)
            count += len(asked)


def test_of_pairs_with_a_probability_the_other_order_comes_last():
    m = 6
    game = play(m, by_chance(4, 0.2, 0.45, 0.9), limit=m * (m - 1), stop_below=0.0)
    pairs = [frozenset(duel) for duel in game.duels]
    assert len(set(pairs[: m * (m - 1) // 2])) == m * (m - 1) // 2
    # A hard judge's second orders are worth asking long before that.
    hard = play(m, by_chance(4, 0.0, 1.0), limit=m * (m - 1), stop_below=0.0, order_noise=1.0)
    assert len({frozenset(duel) for duel in hard.duels[: m * (m - 1) // 2]}) < m * (m - 1) // 2


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_who_wants_more_stops_earlier(soft):
    world = noisy_world(60, 8, sigma=math.sqrt(2), bias=0.0, soft=soft, seed=8)
    calls = []
    for stop_below in (0.0, 0.0003, 0.001, 0.003, 0.01, 10.0):
        world.run(partial(eubo, stop_below=stop_below))
        calls.append(world.calls / 60)
    assert calls[0] == 24 and calls[-1] == 7
    assert all(more > less for more, less in pairwise(calls))


def test_a_stop_leaves_out_the_end_of_what_would_have_been_asked():
    # The last duel of a limit is chosen by another rule, so limits must be out of reach of the
    # stop.
    counts = set()
    for seed in range(10):
        judge = by_chance(seed, 0.0, 1.0)
        whole, short = (play(8, judge, limit=56, stop_below=stop) for stop in (0.001, 0.01))
        assert 7 <= len(short.duels) <= len(whole.duels) < 56
        assert whole.duels[: len(short.duels)] == short.duels
        counts |= {len(short.duels), len(whole.duels)}
    assert len(counts) > 5


def test_what_is_not_asked_promised_less():
    m, stop_below = 8, 0.004
    game = play(m, by_chance(11, 0.0, 1.0), stop_below=stop_below)
    assert m - 1 < len(game.duels) < 3 * m
    belief = Belief(m, 3 * m, accuracy=0.75, order_noise=0.5, first_slot_bias=0.0)
    open_pairs = ~np.eye(m, dtype=bool)
    for number, (duel, p_first) in enumerate(game.verdicts):
        if number >= m - 1:
            assert belief.best_of_two()[open_pairs].max() - belief.mean.max() >= stop_below - 1e-9
        open_pairs[duel] = False
        belief.take(duel, p_first)
    assert belief.best_of_two()[open_pairs].max() - belief.mean.max() < stop_below + 1e-9


# Who is the champion.


@given(m=st.integers(2, 10), extra=st.integers(0, 20), seed=st.integers(0, 999), bias=biases)
@settings(max_examples=80)
def test_the_winner_of_the_start_is_champion_until_it_loses(m, extra, seed, bias):
    game = play(m, by_chance(seed, 0.0, 1.0), limit=m - 1 + extra, first_slot_bias=bias)
    winner = winner_of_the_start(game)
    lost = any(winner == (duel.second if p == 1 else duel.first) for duel, p in game.verdicts)
    if lost:
        assert game.outcome.scores[game.outcome.champion] == pytest.approx(
            max(game.outcome.scores), abs=1e-6
        )
    else:
        assert game.outcome.champion == winner


def test_a_winner_is_overtaken_by_those_who_beat_it():
    overtaken = 0
    for seed in range(30):
        game = play(9, by_chance(seed, 0.0, 1.0), limit=14, stop_below=0.0)
        winner = winner_of_the_start(game)
        beaten = sum(winner == (duel.second if p == 1 else duel.first) for duel, p in game.verdicts)
        assert beaten or game.outcome.champion == winner
        overtaken += game.outcome.champion != winner
    assert 0 < overtaken < 30


@given(
    quality=st.integers(2, 10).flatmap(lambda m: st.permutations(range(m))),
    extra=st.integers(0, 20),
    bias=biases,
    accuracy=st.sampled_from((0.6, 0.75, 0.95)),
    batch=st.integers(1, 4),
)
@settings(max_examples=60)
def test_a_judge_without_noise_leads_to_the_best(quality, extra, bias, accuracy, batch):
    m = len(quality)
    options = {
        "limit": m - 1 + extra,
        "first_slot_bias": bias,
        "accuracy": accuracy,
        "batch": batch,
    }
    game = play(m, lambda duel: float(quality[duel.first] > quality[duel.second]), **options)
    assert game.outcome.champion == int(np.argmax(quality))


@given(quality=st.lists(st.integers(-20, 20), min_size=2, max_size=9), bias=biases)
@settings(max_examples=60)
def test_margins_stated_without_noise_lead_to_the_best(quality, bias):
    """The judge is expected to be noisy, and so to be shrunk; but nothing it says contradicts
    the order.
    """
    game = play(len(quality), stating(np.array(quality) / 10, bias), first_slot_bias=bias)
    assert quality[game.outcome.champion] == max(quality)


@pytest.mark.parametrize(
    "link", [lambda gap: 2 * gap, lambda gap: gap / 5, lambda gap: gap**3, np.cbrt]
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("m", [3, 8, 9])
def test_margins_stated_without_noise_lead_to_the_best_whatever_the_link(link, batch, m):
    quality = np.random.default_rng(m).normal(size=(150, m))
    world = World(quality, 1 / (1 + np.exp(-link(quality[:, :, None] - quality[:, None, :]))))
    assert lost(world, world.run(lambda m: eubo(m, batch=batch))).max() == 0


def test_stated_probabilities_can_outdo_a_winner_that_never_lost():
    """Number 2 barely beats 0 and 3, and 0 barely beats 1; but 3 beats 0 and 1 by far."""
    p_lower = {(0, 1): 0.51, (0, 2): 0.49, (0, 3): 0.02, (1, 2): 0.499, (1, 3): 0.001, (2, 3): 0.51}

    def judge(duel):
        p = p_lower[min(duel), max(duel)]
        return p if duel.first < duel.second else 1 - p

    game = play(4, judge, limit=6, stop_below=0.0)
    assert {(min(duel), max(duel)) for duel in game.duels} == set(p_lower)
    assert game.outcome.champion == int(np.argmax(game.outcome.scores)) == 3


# Failures.


def test_without_any_answer_nothing_was_found():
    for m in (2, 3, 7):
        for options in (
            {},
            {"limit": m - 1, "first_slot_bias": 1.0},
            {"batch": 4},
            {"stop_below": 0.0},
        ):
            assert play(m, lambda duel: None, **options).outcome == Outcome()


@pytest.mark.parametrize(
    ("silent", "options"),
    [
        (0, {}),
        (3, {}),
        (7, {}),
        (0, {"limit": 20, "batch": 3}),
        (3, {"limit": 7, "first_slot_bias": 1.0}),
        (7, {"limit": 7, "first_slot_bias": -1.0}),
    ],
    ids=str,
)
def test_one_that_is_never_answered_has_no_place(silent, options):
    quality = [5, 1, 4, 7, 2, 0, 3, 6]
    table = transitive_table(quality)
    table[silent, :] = table[:, silent] = np.nan
    (outcome,) = table_world(table).run(partial(eubo, **options))
    others = [i for i in range(8) if i != silent]
    assert outcome.champion in others
    assert outcome == Outcome(champion=outcome.champion)
    (enough,) = table_world(table).run(partial(eubo, limit=56, stop_below=0.0))
    assert enough == Outcome(champion=max(others, key=quality.__getitem__))


def test_a_winner_of_failed_duels_alone_is_no_champion():
    """Number 0 wins the knockout, since the lower index goes on; only then the others are
    compared.
    """
    table = transitive_table([0, 1, 2])
    table[0, :] = table[:, 0] = np.nan
    for limit in (4, 6):
        (outcome,) = table_world(table).run(partial(eubo, limit=limit, stop_below=0.0))
        assert outcome in (Outcome(), Outcome(champion=2))
    assert outcome == Outcome(champion=2)


def test_a_failed_duel_says_nothing():
    """All verdicts but the failed ones are in the scores, and nothing else."""
    game = play(7, by_chance(6, 0.0, 1.0, 1.0, None), limit=30, stop_below=0.0)
    assert any(p is None for _, p in game.verdicts)
    belief = Belief(7, 30, accuracy=0.75, order_noise=0.5, first_slot_bias=0.0)
    for duel, p_first in game.verdicts:
        if p_first is not None:
            belief.take(duel, p_first)
    scores, errors = belief.log_odds()
    assert game.outcome.scores == pytest.approx(scores.tolist())
    assert game.outcome.standard_errors == pytest.approx(errors.tolist())


def test_scores_are_those_of_the_judge_that_it_was_told_of():
    options = {"accuracy": 0.9, "order_noise": 0.1, "first_slot_bias": -0.6}
    game = play(6, by_chance(7, 0.0, 0.2, 0.9, 1.0), limit=20, stop_below=0.0, **options)
    belief = Belief(6, 20, **options)
    for duel, p_first in game.verdicts:
        belief.take(duel, p_first)
    assert game.outcome.scores == pytest.approx(belief.log_odds()[0].tolist())


# What it is worth.


def lost(world: World, outcomes: list[Outcome]) -> np.ndarray:
    """The quality that each champion lacks [N]."""
    champions = [outcome.champion for outcome in outcomes]
    return world.quality.max(axis=1) - world.quality[np.arange(len(champions)), champions]


@pytest.mark.torture
@pytest.mark.parametrize(("soft", "worlds"), [(False, 1_500), (True, 600)], ids=["hard", "soft"])
def test_less_regret_than_a_lazy_scan_for_no_more_calls(soft, worlds):
    bias = first_slot_logit(0.5, "soft" if soft else "hard")
    world = noisy_world(worlds, 16, sigma=math.sqrt(2), bias=0.5, soft=soft, seed=10)
    of_lazy = lost(world, world.run(partial(iterative, order="lazy", first_slot_bias=bias)))
    calls_of_lazy = world.calls
    of_eubo = lost(world, world.run(partial(eubo, limit=18, first_slot_bias=bias)))
    gain = of_lazy - of_eubo
    error = float(gain.std(ddof=1)) / math.sqrt(worlds)
    print(
        f"{'soft' if soft else 'hard'}: lazy {of_lazy.mean():.3f} for "
        f"{calls_of_lazy / worlds:.1f} calls, "
        f"eubo {of_eubo.mean():.3f} for {world.calls / worlds:.1f}; gain {gain.mean():.3f} ± "
        f"{error:.3f}"
    )
    assert world.calls <= calls_of_lazy
    assert gain.mean() > 3 * error


@pytest.mark.torture
def test_more_calls_find_better_ones():
    world = noisy_world(300, 16, sigma=math.sqrt(2), bias=0.5, soft=False, seed=12)
    bias = first_slot_logit(0.5, "hard")
    little, much = (
        lost(world, world.run(partial(eubo, limit=limit, first_slot_bias=bias)))
        for limit in (15, 48)
    )
    gain = little - much
    assert gain.mean() > 3 * gain.std(ddof=1) / math.sqrt(300)
