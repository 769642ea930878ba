"""Every completion against one: the scores are the log-odds of beating it."""

import math

import pytest

from prefine.pairing.selectors.rejection_sampling import acceptance
from prefine.ranking import Duel, Outcome
from prefine.ranking.run import drive
from prefine.ranking.strategies.against_baseline import against_baseline
from prefine.records import Ranking

STRENGTH = [0.0, 1.0, -0.5, 2.0]


def soft(ask: Duel, *, bias: float = 0.0) -> float:
    return 1 / (1 + math.exp(-(STRENGTH[ask.first] - STRENGTH[ask.second] + bias)))


def played(answer, m: int = 4, **options) -> tuple[Outcome, list[Duel]]:  # type: ignore[no-untyped-def]
    asked: list[Duel] = []

    def answers(asks):  # type: ignore[no-untyped-def]
        asked.extend(ask for _, ask in asks)
        return [answer(ask) for _, ask in asks]

    found = drive({"p": against_baseline(m, **options)}, answers)
    return found["p"], asked


def test_scores_are_the_strengths_above_the_baselines() -> None:
    outcome, asked = played(soft)
    assert asked == [Duel(1, 0), Duel(0, 2), Duel(3, 0)]
    assert outcome.scores == pytest.approx(STRENGTH)
    assert outcome.order == (3, 1, 0, 2)
    assert outcome.score_unit == "log_odds"
    assert outcome.champion is None


def test_both_orders_take_a_slot_bias_out_of_the_order() -> None:
    outcome, asked = played(lambda ask: soft(ask, bias=3.0), order="both")
    assert asked == [Duel(1, 0), Duel(0, 1), Duel(2, 0), Duel(0, 2), Duel(3, 0), Duel(0, 3)]
    assert outcome.order == (3, 1, 0, 2)
    p = (soft(Duel(1, 0), bias=3.0) + 1 - soft(Duel(0, 1), bias=3.0)) / 2
    assert outcome.scores is not None
    assert outcome.scores[1] == pytest.approx(math.log(p / (1 - p)))


def test_hard_verdicts_are_clipped() -> None:
    hard, _ = played(lambda ask: float(STRENGTH[ask.first] > STRENGTH[ask.second]))
    assert hard.scores == pytest.approx((0.0, math.log(19), -math.log(19), math.log(19)))
    wide, _ = played(lambda ask: float(STRENGTH[ask.first] > STRENGTH[ask.second]), clip=0.2)
    assert wide.scores == pytest.approx((0.0, math.log(4), -math.log(4), math.log(4)))
    torn, _ = played(lambda ask: 1.0, order="both")
    assert torn.scores == pytest.approx((0.0, 0.0, 0.0, 0.0)), "a slot is no answer"


@pytest.mark.parametrize("order", ["single", "both"])
def test_a_failed_duel_leaves_no_score(order: str) -> None:
    outcome, _ = played(lambda ask: None if ask == Duel(3, 0) else soft(ask), order=order)
    assert outcome == Outcome()


def test_rejection_sampling_takes_the_scores_as_rewards() -> None:
    outcome, _ = played(soft)
    ranking = Ranking(
        prompt_id="p",
        strategy="against_baseline",
        completions=("a", "b", "c", "d"),
        scores=outcome.scores,
        score_unit="log_odds",
    )
    expected = sum(math.exp((one - 2.0) / 0.5) for one in STRENGTH) / 4
    shares = acceptance(ranking, beta=0.5)
    assert shares["accepted by the first pass"] == pytest.approx(expected)
