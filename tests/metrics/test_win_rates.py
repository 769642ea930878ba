"""Win rates: known answers, errors, missing orders."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.metrics.win_rates.win_rates import both_order_wins, win_rate

answers = st.sampled_from((0.0, 0.25, 0.5, 1.0, None))


def test_value_error_and_interval():
    wins = np.array([1.0, 0.0, 0.5, 1.0])
    metric = win_rate(wins, samples=4_000, seed=0, name="vs_initial")
    assert (metric.name, metric.unit, metric.n) == ("vs_initial", "%", 4)
    assert metric.value == 62.5
    assert metric.standard_error == pytest.approx(100 * np.std([1, 0, 0.5, 1], ddof=1) / 2)
    low, high = metric.interval
    assert 0 <= low < 62.5 < high <= 100
    assert wins.tolist() == [1.0, 0.0, 0.5, 1.0]


def test_one_prompt_has_a_value_and_no_uncertainty():
    metric = win_rate([1.0])
    assert (metric.value, metric.standard_error, metric.interval, metric.n) == (
        100.0,
        None,
        None,
        1,
    )


@pytest.mark.parametrize(
    ("wins", "message"),
    [
        ([], "non-empty"),
        ([0.5, np.nan], "win_rate must be finite numbers, got nan at index 1"),
        ([0.5, 1.2], r"must be in \[0, 1\], got 1.2 at index 1"),
    ],
)
def test_refusals(wins, message):
    with pytest.raises(ValueError, match=message):
        win_rate(wins)


def test_both_orders_are_unswapped_and_averaged():
    result = both_order_wins([1.0, 0.8, 1.0, 0.0], [0.0, 0.6, 1.0, 1.0])
    assert result.wins.tolist() == pytest.approx([1.0, 0.6, 0.5, 0.0])
    assert (result.answered.tolist(), result.missing) == ([True] * 4, 0)


def test_a_missing_order_leaves_the_prompt_out_and_is_counted():
    result = both_order_wins([1.0, None, 0.5, float("nan")], [0.0, 0.5, None, None])
    assert result.wins.tolist() == [1.0]
    assert (result.answered.tolist(), result.missing) == ([True, False, False, False], 3)


@given(pairs=st.lists(st.tuples(answers, answers), max_size=8))
def test_exchanging_the_two_models_gives_the_complement(pairs):
    when_first, when_second = [p for p, _ in pairs], [p for _, p in pairs]
    model, baseline = (
        both_order_wins(when_first, when_second),
        both_order_wins(when_second, when_first),
    )
    assert baseline.wins.tolist() == pytest.approx((1 - model.wins).tolist())
    assert baseline.missing == model.missing == len(pairs) - len(model.wins)


def test_a_judge_that_looks_at_the_slot_only_gives_one_half():
    assert win_rate(both_order_wins([1.0] * 3, [1.0] * 3).wins).value == 50


def test_orders_that_do_not_match_are_refused():
    with pytest.raises(
        ValueError, match="numbers of rows differ: 2 p_first_when_first, 1 p_first_when_second"
    ):
        both_order_wins([0.5, 0.5], [0.5])
    with pytest.raises(ValueError, match=r"p_first_when_second must be in \[0, 1\]"):
        both_order_wins([0.5], [-1.0])
