"""The words of a sweep: readable settings, their baselines, and sentences of what was fitted."""

from typing import Any

import pytest

from prefine.records import MetricValue
from prefine.sweep.growth import Growth
from prefine.sweep.page import page
from prefine.sweep.results import Hill, SettingResult, SweepResult
from prefine.sweep.text import baseline_words, lines_of, setting_words

SOURCE, FRACTION = "pair.only_sources", "pair.fraction"


def percent(value: float, reach: float) -> MetricValue:
    return MetricValue(
        name="win_rate", value=value, interval=(value - reach, value + reach), n=200, unit="%"
    )


def setting(
    values: dict[str, Any], name: str, baseline: str | None, rate: float = 64.0, items: int = 284
) -> SettingResult:
    return SettingResult(
        name=name,
        values=values,
        seeds=(0, 1),
        items=items,
        baseline=baseline,
        win_rate=percent(rate, 6.0),
        difference=None if baseline in (name, None) else percent(-18.0, 6.0),
        held_out_fall=MetricValue(name="fall", value=rate / 40, n=2, unit="nats"),
    )


def halves(**others: Any) -> SweepResult:
    """Two sources, and a small and the whole share of each."""
    found = []
    for source in ("first half", "second half"):
        base = f"{source}-1.0"
        found += [
            setting({SOURCE: [source], FRACTION: 0.2}, f"{source}-0.2", base, 45.9, 57),
            setting({SOURCE: [source], FRACTION: 1.0}, base, base),
        ]
    values: dict[str, Any] = {
        "scored_by": "gold",
        "prompts": 200,
        "baseline": "first half-1.0",
        "settings": tuple(found),
        "best": "second half-1.0",
        "best_on_half": "first half-1.0",
        "best_score": percent(58.5, 8.5),
    }
    return SweepResult(**(values | others))


def growth(high: float | None) -> Growth:
    """The curve 65.7 - 79,000 n^-2.05, which is at 65.0 with 284 items."""
    return Growth(
        others={SOURCE: ["first half"]},
        limit=65.7,
        factor=79_000.0,
        power=2.05,
        interval=(63.2, high),
    )


def test_the_lines_name_settings_and_their_baselines() -> None:
    assert lines_of(halves(growths=(growth(70.4),))) == [
        "setting                                   win rate by gold [%]   difference [points]  "
        "held-out fall [nats]  fall [nats]  items",
        "only_sources: first half, fraction: 0.2      45.9 [39.9, 51.9]  -18.0 [-24.0, -12.0]  "
        "                1.15                  57",
        "only_sources: first half, fraction: 1.0      64.0 [58.0, 70.0]              baseline  "
        "                1.60                 284",
        "only_sources: second half, fraction: 0.2     45.9 [39.9, 51.9]  -18.0 [-24.0, -12.0]  "
        "                1.15                  57",
        "only_sources: second half, fraction: 1.0     64.0 [58.0, 70.0]              baseline  "
        "                1.60                 284",
        "",
        "each difference is to the setting with fraction: 1.0 and the same only_sources",
        "best of 4: 64.0 [58.0, 70.0] % (only_sources: second half, fraction: 1.0)",
        "  on prompts that have not chosen it: 58.5 [50.0, 67.0] % "
        "(only_sources: first half, fraction: 1.0)",
        "with more data the win rate goes towards 65.7 % [63.2, 70.4]; at 284 items the curve has "
        "reached 65.0 % (only_sources: first half)",
    ]


def test_a_limit_that_is_not_identified_is_said() -> None:
    assert lines_of(halves(growths=(growth(None),)))[-1] == (
        "with more data no limit of the win rate is identified [63.2, no end] %: the results fit "
        "one that is as far away as you like; at 284 items the curve has reached 65.0 % "
        "(only_sources: first half)"
    )


@pytest.mark.parametrize("baseline", ["one", None], ids=["with", "before they were named"])
def test_a_single_baseline_is_named(baseline: str | None) -> None:
    two = (
        setting({"train.loss.beta": 0.1}, "one", baseline),
        setting({"train.loss.beta": 0.4}, "two", baseline),
    )
    result = SweepResult(scored_by="gold", prompts=200, baseline="one", settings=two)
    assert baseline_words(result) == "differences are to beta: 0.1"
    assert lines_of(result)[1].startswith("beta: 0.1") and "baseline" in lines_of(result)[1]
    assert "baseline" not in lines_of(result)[2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train.loss": {"name": "simpo", "beta": 2.0}}, "loss: simpo (beta 2.0)"),
        ({"train.loss": {"name": "dpo"}, "train.epochs": 3}, "loss: dpo, epochs: 3"),
        ({"train.regularizer": None}, "regularizer: none"),
        ({"pair.only_sources": ["a", "b"]}, "only_sources: a and b"),
        ({"train.lora": True}, "lora: true"),
        ({"train.loss.beta": 0.1, "rank.beta": 2}, "train.loss.beta: 0.1, rank.beta: 2"),
    ],
)
def test_values_are_written_as_people_read_them(values: dict[str, Any], words: str) -> None:
    one = setting(values, "one", "one")
    result = SweepResult(scored_by="gold", prompts=200, baseline="one", settings=(one,))
    assert setting_words(result, values) == words


def test_each_picture_has_a_title_and_its_own_sentence() -> None:
    hill = Hill(
        path=FRACTION, log=False, top=0.7, interval=(0.5, 0.9), coefficients=(40.0, 60.0, -36.0)
    )
    shown = page(halves(growths=(growth(70.4),), hills=(hill,)), "data efficiency")
    parts = [part.split("</figure>")[0] for part in shown.split("<figure>")[1:]]
    assert [part.split("<h2>")[1].split("</h2>")[0] for part in parts] == [
        "Win rate against held-out fall",
        "Win rate over pair.fraction",
        "Win rate over the items trained on; only_sources: first half",
    ]
    captions = [part.partition("<figcaption>")[2].partition("</figcaption>")[0] for part in parts]
    assert captions == [
        "",
        "The top of a parabola through the win rates is at 0.7 [0.5, 0.9].",
        "With more data the win rate goes towards 65.7\N{NO-BREAK SPACE}% [63.2, 70.4]; at 284 "
        "items the curve has reached 65.0\N{NO-BREAK SPACE}%.",
    ]
    assert "each difference is to the setting with fraction: 1.0 and the same only_sources" in shown
    # Two baselines in each of the first two pictures, one in the third; the best of all is in two.
    assert [part.count('class="dot before"') for part in parts] == [2, 2, 1]
    assert [part.count('class="dot down"') for part in parts] == [1, 1, 0]
