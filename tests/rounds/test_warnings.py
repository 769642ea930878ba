"""Warnings of rounds that go wrong, and rounds that end before the last one."""

import pytest

from prefine.config.rounds import StopConfig
from prefine.records import MetricValue
from prefine.report.data import HeadToHead
from prefine.rounds.figures import RoundFigures
from prefine.rounds.results import beside_one_another
from prefine.rounds.stopping import stopped_by
from prefine.rounds.warnings import warnings_of


def value(middle: float, low: float, high: float) -> MetricValue:
    return MetricValue(name="figure", value=middle, interval=(low, high), n=100)


def contest(middle: float, low: float, high: float) -> HeadToHead:
    rate = value(middle, low, high)
    return HeadToHead(judge="j", role="judge", win_rate=rate, wins=1, ties=0, losses=0)


def round_(number: int, **figures: object) -> RoundFigures:
    return RoundFigures.model_validate({"key": "k", "round": number, **figures})


def test_a_judge_is_exploited_once_gold_lies_below_the_best_round_before() -> None:
    honest = [
        round_(1, gold_over_best=value(0.2, 0.1, 0.3)),
        round_(2, best_before=1, gold_over_best=value(-0.05, -0.2, 0.01)),
    ]
    assert warnings_of(honest) == []
    worse = round_(3, best_before=1, gold_over_best=value(-0.2, -0.3, -0.1))
    later = round_(4, best_before=1, gold_over_best=value(-0.4, -0.5, -0.3))
    (said,) = warnings_of([*honest, worse, later])
    assert said.startswith(
        "The judge is being exploited: by gold, round 3 is worse than round 1, by "
        "-0.200 [-0.300, -0.100]."
    )


def test_nobody_is_sent_back_to_a_model_that_was_deleted() -> None:
    worse = round_(3, best_before=1, gold_over_best=value(-0.2, -0.3, -0.1))
    (kept,) = warnings_of([worse], {2})
    assert "Go back to round 1;" in kept
    (gone,) = warnings_of([worse], {1, 2})
    assert "Go back" not in gone
    assert (
        "The model of round 1 was not kept; walk again in another --run-dir with "
        "rounds.keep_models: best to have it; more rounds" in gone
    )
    (initial,) = warnings_of([worse.model_copy(update={"best_before": 0})], {1, 2})
    assert "Go back to the initial policy;" in initial


def test_a_second_judge_stands_in_for_gold() -> None:
    lost = {"best_before": 1, "over_best": (contest(30, 20, 40),)}
    (said,) = warnings_of([round_(2, **lost, second_judge=True)])
    assert said.startswith("The judge of the training is being exploited: ")
    (said,) = warnings_of([round_(2, **lost)])
    assert said.startswith("Round 2 is worse than round 1 by the judge itself")


@pytest.mark.parametrize(
    ("figure", "before", "change", "said"),
    [
        ("length", 100, (40, 26, 60), "Answers grow: in round 2"),
        ("length", 100, (40, 24, 60), None),
        ("diversity", 0.8, (-0.3, -0.4, -0.21), "Diversity collapses: in round 2"),
        ("diversity", 0.8, (-0.3, -0.4, -0.19), None),
    ],
)
def test_length_and_diversity_are_compared_with_the_initial_policy(
    figure: str, before: float, change: tuple[float, float, float], said: str | None
) -> None:
    figures = {
        f"{figure}_initial": value(before, before, before),
        f"{figure}_change": value(*change),
    }
    found = warnings_of([round_(1), round_(2, **figures)])
    assert [one[: len(said or "")] for one in found] == ([] if said is None else [said])


def test_rounds_end_after_so_many_without_gain() -> None:
    gain = round_(1, over_previous=(contest(60, 52, 68),))
    none = [round_(n, over_previous=(contest(55, 48, 62),)) for n in (2, 3)]
    stop = StopConfig(no_gain=2)
    assert stopped_by([gain, none[0]], stop) is None
    assert stopped_by([none[0], gain], stop) is None
    assert stopped_by([gain, *none], None) is None
    said = stopped_by([gain, *none], stop)
    assert said is not None and said.startswith("stopped after round 3: 2 rounds in a row without")
    assert stopped_by([round_(1)], StopConfig(no_gain=1)) is not None


def test_rounds_that_do_not_fit_into_the_terminal_follow_below() -> None:
    headings, rounds = ("round", "length"), [("1", "78 [60, 96]"), ("2", "75"), ("3", "81")]
    beside = ["round   1            2   3", "length  78 [60, 96]  75  81"]
    assert beside_one_another(headings, rounds, None) == beside
    assert beside_one_another(headings, rounds, 27) == beside
    assert beside_one_another(headings, rounds, 24) == [
        "round   1            2",
        "length  78 [60, 96]  75",
        "",
        "round   3",
        "length  81",
    ]
    # A terminal that is narrower than one round has one below the other.
    assert len(beside_one_another(headings, rounds, 5)) == 8
