"""When the alarms of likelihood over-optimisation stop a training."""

import json
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from prefine.config.training import EarlyStopConfig
from prefine.errors import NumericsError
from prefine.metrics.rewards.likelihood_indicators import IndicatorReading, watch_all
from prefine.training.early_stop import EarlyStop

STEPS = np.arange(30)
NARROWING = [
    IndicatorReading(float(h), 0.9, float(m))
    for h, m in zip(2.0 * np.exp(-STEPS / 10), STEPS, strict=True)
]
NARROWING_UNLEARNED = [IndicatorReading(r.top_entropy, r.top_mass, -r.margin) for r in NARROWING]
LEAKING = [IndicatorReading(2.0, float(mass), 0.0) for mass in np.linspace(0.95, 0.5, 30)]
STILL = [IndicatorReading(2.0, 0.9, float(margin)) for margin in range(30)]
TURNING = [
    IndicatorReading(2.0 + 0.3 * float(np.sin(step / 9)), 0.9, float(step)) for step in range(30)
]


def early_stop(**settings: Any) -> EarlyStop:
    return EarlyStop(EarlyStopConfig(**settings))


def stopped_by(stop: EarlyStop, reading: IndicatorReading) -> str | None:
    """The alarm that is due after one more reading."""
    stop.update(reading)
    return stop.stopped_by


def first_stop(stop: EarlyStop, readings: list[IndicatorReading]) -> tuple[int, str] | None:
    """Number of the reading that stops, from 0, and the alarm."""
    for number, reading in enumerate(readings):
        if (alarm := stopped_by(stop, reading)) is not None:
            return number, alarm
    return None


@pytest.mark.parametrize(("readings", "alarm"), [(NARROWING, "collapse"), (LEAKING, "diffusion")])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_an_alarm_stops_when_it_has_been_on_long_enough(
    readings: list[IndicatorReading], alarm: str, patience: int
) -> None:
    on = [getattr(state, alarm) for state in watch_all(readings)].index(True)
    assert first_stop(early_stop(patience=patience), readings) == (on + patience - 1, alarm)


@pytest.mark.parametrize("readings", [NARROWING_UNLEARNED, STILL])
def test_other_trainings_go_on(readings: list[IndicatorReading]) -> None:
    assert first_stop(early_stop(patience=1), readings) is None


def test_only_the_chosen_alarms_stop() -> None:
    assert first_stop(early_stop(alarms=("diffusion",), patience=1), NARROWING) is None
    assert first_stop(early_stop(alarms=("collapse",), patience=1), LEAKING) is None
    both = [
        IndicatorReading(r.top_entropy, leak.top_mass, r.margin)
        for r, leak in zip(NARROWING, LEAKING, strict=True)
    ]
    for order in (("collapse", "diffusion"), ("diffusion", "collapse")):
        stop = early_stop(alarms=order, patience=1)
        for reading in both:
            stop.update(reading)
        assert stop.stopped_by == order[0]


def test_a_reading_without_alarm_starts_the_count_anew() -> None:
    settings: Any = {"keep": 0.0, "mass_fall": 0.1, "patience": 2}
    low, high = IndicatorReading(1.0, 0.5, 0.0), IndicatorReading(1.0, 1.0, 0.0)
    assert first_stop(early_stop(**settings), [high, low, high, low, high]) is None
    assert first_stop(early_stop(**settings), [high, low, high, low, low]) == (4, "diffusion")


def test_the_settings_of_the_watch_are_used() -> None:
    quick = first_stop(early_stop(patience=1, keep=0.0), NARROWING)
    slow = first_stop(early_stop(patience=1), NARROWING)
    assert quick is not None and slow is not None and quick[0] < slow[0]
    assert first_stop(early_stop(patience=1, entropy_fall=1.0), NARROWING) is None
    assert first_stop(early_stop(patience=1, mass_fall=1.0), LEAKING) is None


def test_a_turn_after_a_rise_stops_who_asks_for_it_and_older_checkpoints_go_on() -> None:
    stop = early_stop(alarms=("turn",), patience=1, keep=0.0)
    # 1 % below the height of 2.3 is a sine of .923: sin(17 / 9) is .950, sin(18 / 9) .909.
    assert first_stop(stop, TURNING) == (18, "turn")
    assert first_stop(early_stop(alarms=("turn",), patience=1, keep=0.0), NARROWING) is None
    assert first_stop(early_stop(patience=1), TURNING) is None
    before, after = early_stop(patience=1), early_stop(patience=1)
    for reading in NARROWING[:5]:
        before.update(reading)
    older = before.state_dict()
    for name in ("first_entropy", "turn", "readings_on.turn"):
        del older[name]
    after.load_state_dict(older)
    assert first_stop(after, NARROWING[5:]) == first_stop(before, NARROWING[5:])


@pytest.mark.parametrize("readings", [NARROWING, LEAKING, STILL, TURNING])
def test_a_resumed_training_stops_where_the_uninterrupted_one_does(
    readings: list[IndicatorReading],
) -> None:
    whole, expected = early_stop(), []
    for reading in readings:
        expected.append(stopped_by(whole, reading))
    for cut in (0, 1, 7, 20, len(readings)):
        before, after = early_stop(), early_stop()
        found = [stopped_by(before, reading) for reading in readings[:cut]]
        after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
        assert after.stopped_by == before.stopped_by
        found += [stopped_by(after, reading) for reading in readings[cut:]]
        assert found == expected
        assert after.state_dict() == whole.state_dict()


def test_an_empty_state_is_the_start() -> None:
    stop = early_stop()
    assert stop.state_dict() == {}
    for reading in NARROWING:
        stop.update(reading)
    assert stop.stopped_by == "collapse"
    stop.load_state_dict({})
    assert (stop.state_dict(), stop.stopped_by) == ({}, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reading_that_is_no_number_ends_the_run(value: float) -> None:
    stop = early_stop()
    stop.update(STILL[0])
    before = stop.state_dict()
    with pytest.raises(NumericsError, match="margin of the probe pairs is not finite"):
        stop.update(IndicatorReading(2.0, 0.9, value))
    assert stop.state_dict() == before


@pytest.mark.parametrize("settings", [{"alarms": ()}, {"alarms": ("panic",)}, {"patience": 0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        early_stop(**settings)
