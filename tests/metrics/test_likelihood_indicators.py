"""Spread of next-token distributions, log-likelihoods, and the two alarms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefine.metrics.rewards.likelihood_indicators import (
    IndicatorReading,
    likelihood_indicators,
    log_likelihood,
    token_spread,
    watch,
    watch_all,
)

ALL = np.ones(1, dtype=bool)


def test_uniform():
    mass, raw, shape, full = (part[0] for part in token_spread(np.zeros((1, 100)), ALL, k=10))
    assert mass == pytest.approx(0.1)
    assert raw == pytest.approx(-10 * 0.01 * math.log(0.01))
    assert raw == pytest.approx(0.4605, abs=5e-5)
    assert shape == pytest.approx(math.log(10))
    assert full == pytest.approx(math.log(100))


@pytest.mark.parametrize("low", [-np.inf, -1e4])
def test_one_hot(low):
    logits = np.full((1, 50), low)
    logits[0, 7] = 0.0
    mass, *entropies = (part[0] for part in token_spread(logits, ALL))
    assert mass == 1.0
    assert entropies == [0.0, 0.0, 0.0]


def test_the_whole_vocabulary_as_the_top_is_the_entropy():
    logits = np.random.default_rng(0).normal(0, 3, (20, 30))
    mass, raw, shape, full = token_spread(logits, np.ones(20), k=30)
    assert mass == pytest.approx(np.ones(20))
    assert raw == pytest.approx(full)
    assert shape == pytest.approx(full)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_against_plain_sums_and_any_shift(shift):
    logits = np.random.default_rng(1).normal(0, 2, (6, 40))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    top = np.sort(p, axis=1)[:, -10:]
    q = top / top.sum(axis=1, keepdims=True)
    found = token_spread(logits + shift, np.ones(6))
    assert found.top_mass == pytest.approx(top.sum(axis=1), rel=1e-9)
    assert found.top_entropy == pytest.approx(-(top * np.log(top)).sum(axis=1), rel=1e-9)
    assert found.top_entropy_renormalised == pytest.approx(-(q * np.log(q)).sum(axis=1), rel=1e-9)
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(axis=1), rel=1e-9)
    again = token_spread(np.log(p), np.ones(6))
    assert again.entropy == pytest.approx(found.entropy, rel=1e-9)


def test_stable_at_extreme_logits_of_low_precision():
    logits = np.random.default_rng(2).choice([-1e4, 1e4, 0.0], (50, 20)).astype(np.float16)
    for part in token_spread(logits, np.ones(50), k=3):
        assert np.isfinite(part).all()
        assert (part >= 0).all()


def test_prompt_and_padding_do_not_count_whatever_is_there():
    logits = np.random.default_rng(3).normal(size=(5, 12))
    alone = token_spread(logits[2:4], np.ones(2), k=4)
    logits[[0, 4]] = np.nan
    before = logits.copy()
    masked = token_spread(logits, [False, False, True, True, False], k=4)
    assert all(np.array_equal(one, other) for one, other in zip(masked, alone, strict=True))
    assert np.array_equal(logits, before, equal_nan=True)


@given(k=st.integers(1, 8), seed=st.integers(0, 50))
@settings(derandomize=True, max_examples=40)
def test_bounds_and_the_identity_of_the_two_entropies(k, seed):
    logits = np.random.default_rng(seed).normal(0, 4, (3, 8))
    mass, raw, shape, full = token_spread(logits, np.ones(3), k=k)
    assert (shape <= math.log(k) + 1e-9).all()
    assert (raw <= full + 1e-9).all()
    assert (mass >= k / 8 - 1e-9).all()
    assert shape == pytest.approx(raw / mass + np.log(mass), abs=1e-9)


def test_indicators_are_means_with_sequences_resampled():
    spread = token_spread(np.random.default_rng(4).normal(0, 2, (12, 30)), np.ones(12))
    found = likelihood_indicators(spread, np.repeat(["a", "b", "c"], 4))
    assert [metric.name for metric in found] == [
        "top_mass",
        "top_entropy",
        "top_entropy_renormalised",
        "entropy",
    ]
    assert [metric.unit for metric in found] == ["", "nats", "nats", "nats"]
    assert found.entropy.value == pytest.approx(spread.entropy.mean())
    assert found.entropy.n == 12
    assert found.entropy.interval is not None


def test_log_likelihood_of_tokens_and_of_sequences():
    found = log_likelihood("chosen", [-2.0, -12.0], [1, 4], ["p", "q"])
    assert (found.per_token.name, found.per_token.value) == (
        "chosen_logp_per_token",
        pytest.approx(-14 / 5),
    )
    assert (found.per_sequence.name, found.per_sequence.value) == ("chosen_logp_per_sequence", -7)
    assert found.per_token.interval == pytest.approx((-3.0, -2.0))
    alone = log_likelihood("chosen", [-2.0, -12.0], [1, 4], ["p", "p"])
    assert alone.per_token.interval is None


def readings(entropies, masses, margins):
    return [IndicatorReading(*one) for one in zip(entropies, masses, margins, strict=True)]


def test_a_collapse_is_narrowing_while_the_margin_rises():
    steps = np.arange(30)
    narrowing = 2.0 * np.exp(-steps / 10)
    rising = watch_all(readings(narrowing, np.full(30, 0.9), steps))
    assert [state.collapse for state in rising].index(True) > 1
    assert rising[-1].collapse
    assert not any(state.diffusion for state in rising)
    falling = watch_all(readings(narrowing, np.full(30, 0.9), -steps))
    assert not any(state.collapse for state in falling)


def test_a_leak_to_the_tail_is_the_other_alarm():
    states = watch_all(readings(np.full(30, 2.0), np.linspace(0.95, 0.5, 30), np.zeros(30)))
    assert states[-1].diffusion
    assert not any(state.collapse for state in states)


def test_nothing_moves_and_nothing_rings():
    states = watch_all(readings(np.full(20, 2.0), np.full(20, 0.9), np.arange(20)))
    assert not any(state.collapse or state.diffusion for state in states)


def test_averages_by_hand():
    first = watch(None, IndicatorReading(2.0, 0.8, 0.0), keep=0.5)
    second = watch(
        first, IndicatorReading(1.0, 0.4, 1.0), keep=0.5, entropy_fall=0.2, mass_fall=0.3
    )
    assert (second.top_entropy, second.top_mass, second.margin) == pytest.approx((1.5, 0.6, 0.5))
    assert (second.highest_entropy, second.highest_mass) == (2.0, 0.8)
    assert (second.collapse, second.diffusion) == (True, False)
    third = watch(
        second, IndicatorReading(1.5, 0.5, 0.5), keep=0.5, entropy_fall=0.2, mass_fall=0.3
    )
    assert (third.collapse, third.diffusion) == (False, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_spread(np.zeros(4), ALL), r"logits must be \[T, V\]"),
        (lambda: token_spread(np.zeros((2, 4)), ALL), "got shapes"),
        (lambda: token_spread(np.zeros((2, 4)), [0, 0]), "no position is left"),
        (lambda: token_spread(np.zeros((2, 4)), [0, 2]), "mask must be true or false"),
        (
            lambda: token_spread(np.zeros((1, 4)), ALL, k=5),
            "k must be from 1 to the vocabulary's 4, got 5",
        ),
        (
            lambda: token_spread([[0.0] * 9, [np.nan] * 9], [0, 1], k=2),
            "1 positions hold NaN.*first at position 1",
        ),
        (lambda: token_spread([[np.inf] * 9], ALL, k=2), "first at position 0"),
        (lambda: token_spread([[-np.inf] * 9], ALL, k=2), "first at position 0"),
        (
            lambda: log_likelihood("x", [1.0], [0], ["p"]),
            "tokens must be at least 1, got 0.0 at index 0",
        ),
        (lambda: log_likelihood("x", [1.0], [1], []), "numbers of rows differ: 1 values, 0 groups"),
        (
            lambda: watch(None, IndicatorReading(np.nan, 1, 1)),
            "reading must be finite numbers, got nan at index 0",
        ),
        (lambda: watch(None, IndicatorReading(1, 1, 1), keep=1.0), r"keep must be in \[0, 1\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
