"""The learning rate over a training: warm-up, plateau and decay."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefine.schedules import learning_rate_factor

SHAPES = ("constant", "linear", "cosine", "wsd")


def rates(steps: int, **settings: Any) -> list[float]:
    return [learning_rate_factor(step, steps=steps, **settings) for step in range(steps)]


def test_wsd_warms_up_stays_and_falls_by_the_root() -> None:
    found = rates(10, schedule="wsd", warmup_fraction=0.2, decay_fraction=0.4)
    falling = [1, 1 - math.sqrt(1 / 4), 1 - math.sqrt(2 / 4), 1 - math.sqrt(3 / 4)]
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, *falling])


def test_the_last_fifth_decays_by_default() -> None:
    found = rates(100, schedule="wsd", warmup_fraction=0.0)
    assert found[:81] == [1.0] * 81
    assert found[81] < 1
    assert found[99] == pytest.approx(1 - math.sqrt(19 / 20))


def test_without_decay_it_is_the_constant() -> None:
    same = {"warmup_fraction": 0.3}
    assert rates(20, schedule="wsd", decay_fraction=0.0, **same) == rates(
        20, schedule="constant", **same
    )


def test_a_decay_that_is_too_long_begins_after_the_warm_up() -> None:
    found = rates(10, schedule="wsd", warmup_fraction=0.5, decay_fraction=0.9)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert found[9] == pytest.approx(1 - math.sqrt(4 / 5))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_only_wsd_reads_the_decay(schedule: Any) -> None:
    one, other = (
        rates(12, schedule=schedule, warmup_fraction=0.1, decay_fraction=share)
        for share in (0.1, 0.9)
    )
    assert one == other


@given(
    steps=st.integers(1, 60),
    schedule=st.sampled_from(SHAPES),
    warmup_fraction=st.floats(0, 1),
    decay_fraction=st.floats(0, 1),
)
def test_every_update_moves_and_the_rate_rises_then_falls(
    steps: int, schedule: Any, warmup_fraction: float, decay_fraction: float
) -> None:
    found = rates(
        steps, schedule=schedule, warmup_fraction=warmup_fraction, decay_fraction=decay_fraction
    )
    assert all(0 < rate <= 1 for rate in found)
    assert max(found) == 1
    top = found.index(1)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
