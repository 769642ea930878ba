"""Win rates of preferences: known answers, published numbers, what is counted and what refused."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.metrics.win_rates.win_rates import from_one_to_two, preference_rates
from prefine.suites.alpaca_eval.files import read_annotation_table

some_preferences = st.lists(st.sampled_from((0.0, 0.1, 0.5, 0.75, 1.0)), min_size=1, max_size=12)


def test_known_answer():
    y = np.array([1.0, 0.9, 0.5, 0.5, 0.2, np.nan])
    rates = preference_rates(y)
    assert rates.win_rate.value == pytest.approx(62.0)
    assert rates.win_rate.standard_error == pytest.approx(100 * np.std(y[:5], ddof=1) / np.sqrt(5))
    assert (rates.win_rate.n, rates.missing) == (5, 1)
    assert rates.discrete_win_rate.value == pytest.approx(60.0)
    assert (rates.wins, rates.losses, rates.draws) == (2, 1, 2)
    assert rates.decided_win_rate is not None
    assert (rates.decided_win_rate.value, rates.decided_win_rate.n) == (pytest.approx(200 / 3), 3)
    assert rates.draw_rate.value == pytest.approx(40.0)
    assert {rates.win_rate.name, rates.discrete_win_rate.name} == {"win_rate", "discrete_win_rate"}
    assert np.isnan(y[5])


def test_only_draws_have_no_decided_rate():
    rates = preference_rates([0.5, 0.5])
    assert rates.decided_win_rate is None
    assert (rates.win_rate.value, rates.discrete_win_rate.value, rates.draw_rate.value) == (
        50,
        50,
        100,
    )


def test_none_is_a_missing_annotation_and_counted():
    rates = preference_rates([None, 1.0, 0.0, None])
    assert (rates.win_rate.value, rates.win_rate.n, rates.missing) == (50, 2, 2)


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ([], "none of 0 rows has an annotation"),
        ([None, np.nan], "none of 2 rows has an annotation"),
        ([0.5, 1.5], r"preferences must be in \[0, 1\], got 1.5 at index 1"),
        ([[0.5]], "one-dimensional"),
    ],
)
def test_refusals(preferences, message):
    with pytest.raises(ValueError, match=message):
        preference_rates(preferences)


def test_the_scale_of_alpaca_eval():
    found = from_one_to_two([1, 2, 1.5, 0, 1.25, None])
    assert found[:5].tolist() == [0, 1, 0.5, 0.5, 0.25]
    assert np.isnan(found[5])


@pytest.mark.parametrize("bad", [-1.0, 2.5, 0.5, np.inf])
def test_a_verdict_that_was_not_understood_is_refused(bad):
    with pytest.raises(ValueError, match=r"preferences must be in \[1, 2\].* at index 2 \(1 of 3"):
        from_one_to_two([1.0, 2.0, bad])


@given(y=some_preferences)
def test_swapping_the_models_gives_the_complement(y):
    one, other = preference_rates(y), preference_rates(1 - np.array(y))
    assert one.win_rate.value + other.win_rate.value == pytest.approx(100)
    assert one.discrete_win_rate.value + other.discrete_win_rate.value == pytest.approx(100)
    assert (one.wins, one.losses, one.draws) == (other.losses, other.wins, other.draws)
    assert one.draw_rate.value == other.draw_rate.value


@given(y=some_preferences, seed=st.integers(0, 10))
def test_order_and_copies_of_prompts_do_not_matter(y, seed):
    shuffled = np.random.default_rng(seed).permutation(np.repeat(y, 2))
    one, other = preference_rates(y), preference_rates(shuffled)
    assert other.win_rate.value == pytest.approx(one.win_rate.value)
    assert other.discrete_win_rate.value == pytest.approx(one.discrete_win_rate.value)
    assert (other.wins, other.draws) == (2 * one.wins, 2 * one.draws)


def test_published_win_rates(real_data):
    folder = real_data / "alpaca_eval_dev"
    annotations = read_annotation_table(folder / "annotations.parquet")
    with (folder / "expected.csv").open(encoding="utf-8", newline="") as table:
        published = list(csv.DictReader(table))
    assert len(published) == 24
    for row in published:
        rates = preference_rates(annotations[row["model"]].preferences)
        assert rates.win_rate.value == pytest.approx(float(row["win_rate"]), abs=1e-9), row["model"]
        assert rates.win_rate.standard_error == pytest.approx(
            float(row["standard_error"]), abs=1e-9
        )
        assert rates.discrete_win_rate.value == pytest.approx(
            float(row["discrete_win_rate"]), abs=1e-9
        )
        counts = [rates.wins, rates.losses, rates.draws, rates.win_rate.n]
        assert counts == [
            int(row[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total")
        ]
