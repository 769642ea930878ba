"""The simulator: its worlds, what it counts, and that what it says does not depend on how it is
run.
"""

import inspect
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from prefine.config.components import lookup
from prefine.errors import ConfigError
from prefine.pairing.protocol import selector_facts
from prefine.ranking.noise import first_slot_logit, noise_sd
from prefine.ranking.protocol import Duel, Outcome, Rate, Strategy, facts_of
from prefine.ranking.run import drive
from prefine.ranking.strategies.iterative import iterative
from prefine.ranking.strategies.round_robin import round_robin
from prefine.records import Ranking
from prefine.simulator import (
    Contestant,
    JudgeModel,
    chunks_of,
    draw_worlds,
    joined,
    play,
    play_one,
)
from prefine.simulator.gaps import GAPS
from prefine.simulator.worlds import WORLDS_PER_CHUNK, worlds_per_chunk


def worlds(judge: JudgeModel, completions: int = 6, count: int = 3000, seed: int = 0) -> Any:
    return draw_worlds(judge, completions, count, np.random.default_rng(seed))


def upper(table: Any) -> Any:
    above = np.triu_indices(table.shape[1], 1)
    return table[:, above[0], above[1]]


@pytest.mark.parametrize("accuracy", [0.6, 0.75, 0.9])
def test_the_accuracy_is_the_share_of_random_pairs_judged_rightly(accuracy: float) -> None:
    drawn = worlds(JudgeModel(accuracy=accuracy, first_slot_bias=0.0))
    right = upper(drawn.p_first > 0.5) == (
        upper(drawn.quality[:, :, None] - drawn.quality[:, None, :]) > 0
    )
    # Worlds are independent, the pairs of one are not.
    error = right.mean(1).std() / math.sqrt(len(right))
    assert abs(right.mean() - accuracy) < 4 * error


def test_a_judge_without_noise_is_always_right() -> None:
    drawn = worlds(JudgeModel(accuracy=1, verdicts="soft"), count=50)
    gap = drawn.quality[:, :, None] - drawn.quality[:, None, :]
    assert np.array_equal(drawn.p_first, (np.sign(gap) + 1) / 2)
    assert JudgeModel(accuracy=1).first_slot_logit == 0


@pytest.mark.parametrize(("share", "consistency"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_the_order_noise_is_what_the_two_orders_do_not_share(
    share: float, consistency: float
) -> None:
    """Noise alone, by a judge that is hardly right: both orders agree if their noises do.

    For normal noises of correlation r that is 1/2 + arcsin(r) / pi, and r = 1 - share.
    """
    assert consistency == pytest.approx(0.5 + math.asin(1 - share) / math.pi, abs=0.1)
    drawn = worlds(JudgeModel(accuracy=0.5001, first_slot_bias=0.0, order_noise=share), count=2000)
    agree = (upper(drawn.p_first) > 0.5) == (upper(drawn.p_first.transpose(0, 2, 1)) < 0.5)
    assert agree.mean() == pytest.approx(0.5 + math.asin(1 - share) / math.pi, abs=0.01)


@pytest.mark.parametrize("verdicts", ["hard", "soft"])
@pytest.mark.parametrize("bias", [-0.7, 0.5])
def test_the_bias_in_logits_is_what_one_would_measure(verdicts: Any, bias: float) -> None:
    """Hard: the rate of firsts between equals. Soft: the mean logit, less the noise that both
    orders share.
    """
    drawn = worlds(JudgeModel(accuracy=0.5001, first_slot_bias=bias, verdicts=verdicts), count=2000)
    logit = JudgeModel(first_slot_bias=bias, verdicts=verdicts).first_slot_logit
    if verdicts == "hard":
        assert 1 / (1 + math.exp(-logit)) == pytest.approx(
            float(np.mean([upper(drawn.p_first), upper(drawn.p_first.transpose(0, 2, 1))])),
            abs=0.01,
        )
    else:
        clipped = np.clip(drawn.p_first, 1e-12, 1 - 1e-12)
        measured = np.log(clipped / (1 - clipped))
        assert np.mean([upper(measured), upper(measured.transpose(0, 2, 1))]) == pytest.approx(
            logit, abs=0.1
        )


def test_soft_and_hard_verdicts_are_of_the_same_margins() -> None:
    hard, soft = (worlds(JudgeModel(verdicts=kind), count=20) for kind in ("hard", "soft"))
    assert np.array_equal(upper(hard.p_first), (upper(soft.p_first) > 0.5).astype(float))
    # P = sigmoid(3 margin / sigma): at bias 0 and without noise of its own it is known from the
    # qualities.
    sigma = noise_sd(0.75)
    assert sigma == pytest.approx(math.sqrt(2))
    assert first_slot_logit(0.5, "soft") == 1.5
    assert first_slot_logit(0.5, "hard") == pytest.approx(math.log(0.691462 / 0.308538), abs=1e-5)


def test_grades_are_whole_numbers_from_one_to_five_and_see_as_much_as_the_judge() -> None:
    drawn = worlds(JudgeModel())
    assert set(np.unique(drawn.ratings)) == {1.0, 2.0, 3.0, 4.0, 5.0}
    seen = worlds(JudgeModel(graded=False)).ratings
    assert np.array_equal(drawn.ratings, np.clip(np.round(2.5 + 0.9 * seen), 1, 5))
    right = upper(seen[:, :, None] > seen[:, None, :]) == (
        upper(drawn.quality[:, :, None] > drawn.quality[:, None, :])
    )
    assert right.mean() == pytest.approx(0.75, abs=0.02)


def test_more_worlds_begin_with_the_same_ones() -> None:
    few = [chunk.draw().quality for chunk in chunks_of(JudgeModel(), 4, 100, seed=3)]
    many = [
        chunk.draw().quality for chunk in chunks_of(JudgeModel(), 4, WORLDS_PER_CHUNK + 30, seed=3)
    ]
    assert np.array_equal(np.concatenate(many)[:100], np.concatenate(few))
    assert sum(map(len, many)) == WORLDS_PER_CHUNK + 30
    assert not np.array_equal(many[0][:30], many[1])
    other = next(iter(chunks_of(JudgeModel(), 4, 100, seed=4))).draw().quality
    assert not np.array_equal(other, few[0])


def test_playing_gives_what_the_stage_would_give() -> None:
    drawn = worlds(JudgeModel(), count=40)

    def answer(asks: list[Any]) -> list[float | None]:
        return [float(drawn.p_first[int(key), ask.first, ask.second]) for key, ask in asks]

    outcomes = drive({str(n): iterative(6) for n in range(40)}, answer)
    (played,) = play([Contestant("iterative", (), iterative, ("best_vs_random",))], drawn)
    champions = [outcomes[str(n)].champion for n in range(40)]
    regret = drawn.quality.max(1) - drawn.quality[np.arange(40), champions]
    assert played.regret == pytest.approx(regret)
    others = (drawn.quality.sum(1) - drawn.quality[np.arange(40), champions]) / 5
    assert played.gaps["best_vs_random"] == pytest.approx(
        drawn.quality[np.arange(40), champions] - others
    )


def mixed(num_completions: int) -> Strategy:
    ratings = yield [Rate(0), Rate(1)]
    assert ratings == [4.0, 2.0]
    answers = yield [Duel(0, 1)]
    assert answers == [0.25]
    answers = yield [Duel(1, 0), Duel(0, 2)]
    assert answers == [0.5, 0.75]
    return Outcome(order=(2, 0, 1))


def test_calls_ratings_and_rounds_are_counted() -> None:
    table = [[0.5, 0.25, 0.75], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    outcome, calls, ratings, rounds = play_one(mixed(3), table, [4.0, 2.0, 3.0])
    assert (calls, ratings, rounds) == (5, 2, 3)
    assert outcome.order == (2, 0, 1)


def found_nothing(num_completions: int) -> Strategy:
    yield [Duel(0, 1)]
    return Outcome()


def asks(*rounds: Any, found: Any = None) -> Any:
    def make(num_completions: int) -> Any:
        yield from rounds
        return Outcome(champion=0) if found is None else found

    return make


def endless(num_completions: int) -> Strategy:
    while True:
        yield [Duel(0, 1)]


def failing(num_completions: int) -> Strategy:
    yield [Duel(0, 1)]
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (found_nothing, "it found neither a champion nor an order"),
        (
            asks([Duel(0, 6)]),
            r"Duel\(first=0, second=6\) is no duel of two of the completions 0 to 5",
        ),
        (asks([Duel(-1, 0)]), r"Duel\(first=-1, second=0\) is no duel"),
        (asks([Duel(2, 2)]), r"Duel\(first=2, second=2\) is no duel"),
        (asks([Rate(-1)]), r"Rate\(completion=-1\) is none of the completions"),
        (asks([(0, 1)]), r"\(0, 1\) is neither a Duel nor a Rate"),
        (asks([]), r"a round is a list of at least one Duel or Rate, got \[\]"),
        (asks(3), "a round is a list of at least one Duel or Rate, got 3"),
        (endless, "it asked 21 times, and its max_asks says 20 for 6 completions"),
        (asks(found=0.5), "it returned 0.5, and not an Outcome"),
        (asks(found=Outcome(champion=6)), "its champion 6 is none of"),
        (
            asks(found=Outcome(order=(0, 1))),
            r"its order \(0, 1\) does not name each of 6 completions once",
        ),
        (asks(found=Outcome(champion=0, scores=(1.0,))), "its scores are 1"),
        (failing, r"KeyError: 'lost' \(.*test_simulator.py, line \d+\)"),
    ],
)
def test_a_strategy_that_breaks_the_rules_is_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy 'my:own': {message}"):
        play([Contestant("my:own", (), make, (), max_asks=20)], worlds(JudgeModel(), count=2))


def test_chunks_are_smaller_where_a_world_takes_longer() -> None:
    """The worlds of up to 32 completions are those of the published figures, and stay as they
    are.
    """
    assert [worlds_per_chunk(m) for m in (2, 32, 64, 128)] == [250, 250, 62, 15]
    drawn = [chunk.draw().quality for chunk in chunks_of(JudgeModel(), 64, 100, seed=0)]
    assert [len(part) for part in drawn] == [62, 38]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accuracy": 0.5}, "accuracy 0.5: must be above 0.5 and at most 1"),
        ({"accuracy": math.nan}, "accuracy nan: must be above 0.5"),
        ({"accuracy": "0.8"}, "accuracy 0.8: must be above"),
        ({"first_slot_bias": math.inf}, "first_slot_bias inf: must be from -10 to 10"),
        ({"order_noise": 1.5}, "order_noise 1.5: must be from 0 to 1"),
        ({"verdicts": "Soft"}, "verdicts Soft: choose hard"),
        ({"graded": 1}, "graded 1: must be True or False"),
    ],
)
def test_a_judge_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JudgeModel(**settings)


def test_parts_join_to_the_whole() -> None:
    contestant = Contestant("round_robin", (), round_robin, ("best_vs_worst",))
    drawn = list(chunks_of(JudgeModel(), 3, WORLDS_PER_CHUNK + 5, seed=0))
    whole = joined([play([contestant], chunk.draw())[0] for chunk in drawn])
    assert (
        whole.calls.shape
        == whole.regret.shape
        == whole.gaps["best_vs_worst"].shape
        == (WORLDS_PER_CHUNK + 5,)
    )


# --- gaps


@pytest.mark.parametrize("name", sorted(GAPS))
def test_a_gap_is_that_of_the_pairs_which_the_selector_makes(name: str) -> None:
    """The selectors themselves, on the same outcomes; of those that draw, the mean over many
    seeds.
    """
    select, m = lookup("selector", name, where="test"), 6
    drawn = worlds(JudgeModel(), completions=m, count=6)
    make = iterative if name == "best_vs_last_loser" else round_robin
    assert selector_facts(select).fits(facts_of(make).guarantees)
    for table, quality in zip(drawn.p_first.tolist(), drawn.quality.tolist(), strict=True):
        outcome, *_ = play_one(make(m), table, [])
        quality_of = {str(i): q for i, q in enumerate(quality)}
        seeds = range(300) if name == "best_vs_random" else [0]
        given = {"seed"} & set(inspect.signature(select).parameters)
        proposed = [select(ranking(outcome, m), **{key: seed for key in given}) for seed in seeds]
        choices = [
            choice
            for one in proposed
            for choice in list(one)[: selector_facts(select).pairs_per_prompt]
        ]
        gaps = [quality_of[choice.chosen] - quality_of[choice.rejected] for choice in choices]
        tolerance = 5 * np.std(gaps) / math.sqrt(300) if name == "best_vs_random" else 1e-12
        assert GAPS[name](outcome, quality) == pytest.approx(np.mean(gaps), abs=tolerance)


def ranking(outcome: Outcome, completions: int) -> Ranking:
    """The outcome as a stored ranking; the index is the id."""

    def named(index: int | None) -> str | None:
        return None if index is None else str(index)

    return Ranking(
        prompt_id="any",
        strategy="any",
        completions=tuple(map(str, range(completions))),
        champion=named(outcome.champion),
        worst=named(outcome.worst),
        last_loser=named(outcome.last_loser),
        order=None if outcome.order is None else tuple(map(str, outcome.order)),
        scores=outcome.scores,
    )


def test_all_pairs_leaves_out_equal_scores() -> None:
    quality, scores = [1.0, 0.25, -2.0, 0.5], (2.0, 1.0, 1.0, 0.0)
    expected = [
        quality[a] - quality[b] for a, b in combinations(range(4), 2) if scores[a] > scores[b]
    ]
    assert GAPS["all_pairs"](Outcome(scores=scores), quality) == pytest.approx(np.mean(expected))
    assert GAPS["all_pairs"](Outcome(scores=(1.0, 1.0)), [0.0, 1.0]) is None


def test_a_gap_is_none_where_there_is_no_pair() -> None:
    assert GAPS["best_vs_worst"](Outcome(champion=1, worst=1), [0.0, 1.0]) is None
    assert all(gap(Outcome(), [0.0, 1.0]) is None for gap in GAPS.values())
