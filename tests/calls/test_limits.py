"""The pace of a host: slots share it, it falls with refusals and grows with answers."""

import asyncio
import time
from itertools import pairwise

import pytest

from prefine.calls.limits import HostLimits, Turn


async def turns(limits: HostLimits, count: int, tokens: int = 0) -> list[float]:
    """The times of so many turns that all wait at once, from now."""
    began = time.monotonic()
    found = await asyncio.gather(*(limits.turn(tokens, 0) for _ in range(count)))
    return [turn.at - began for turn in found]


def test_without_a_refusal_nobody_waits() -> None:
    async def run() -> None:
        assert max(await turns(HostLimits(), 500)) < 0.2

    asyncio.run(run())


def test_requests_per_minute_spaces_all_slots() -> None:
    async def run() -> None:
        limits = HostLimits()
        limits.restrict(1200, None)
        limits.restrict(6000, None)  # another model's limit is wider
        at = await turns(limits, 11)
        assert at[-1] >= 10 / 20 - 0.06, "20/s: ten gaps of 50 ms, timers may catch up 50 ms"
        assert at[-1] < 1.0

    asyncio.run(run())


def test_tokens_per_minute_count_what_was_used() -> None:
    async def run() -> None:
        limits = HostLimits()
        limits.restrict(None, 6000)  # 100/s, 1,000 may be saved up
        first = await limits.turn(900, 0)
        assert first.tokens == 900
        began = time.monotonic()
        limits.answered(first, 850, 0)  # 50 less than expected come back
        await limits.turn(180, 0)  # 100 + 50 are there, 30 have to come in .3 s
        assert 0.2 < time.monotonic() - began < 0.6

    asyncio.run(run())


def test_a_request_above_the_saved_tokens_goes_when_all_are_saved() -> None:
    async def run() -> None:
        limits = HostLimits()
        limits.restrict(None, 6000)
        began = time.monotonic()
        await limits.turn(50_000, 0)
        assert time.monotonic() - began < 0.2

    asyncio.run(run())


def test_what_the_host_asks_to_wait_holds_for_all() -> None:
    async def run() -> None:
        limits = HostLimits()
        turn = await limits.turn(0, 0)
        limits.refused(turn.at, 0.4)
        at = await turns(limits, 3)
        assert at[0] >= 0.39

    asyncio.run(run())


def test_refusals_of_one_burst_count_once_and_answers_bring_the_pace_back() -> None:
    async def run() -> None:
        limits = HostLimits()
        burst = [await limits.turn(0, 0) for _ in range(200)]
        limits.answered(burst[0], 0, 0)
        for turn in burst[1:]:
            limits.refused(turn.at, None)
        # 200 were sent at once, measured over 2 s: 100/s, of which three quarters are left.
        limits.answered(Turn(time.monotonic(), 0), 0, 0)
        await asyncio.sleep(0.55)  # the pause after a refusal
        at = await turns(limits, 31)
        assert at[-1] == pytest.approx(30 / 75, rel=0.35)

    asyncio.run(run())


def test_while_all_are_refused_requests_go_one_by_one_with_growing_pauses() -> None:
    async def run() -> None:
        limits = HostLimits()
        burst = [await limits.turn(0, 0) for _ in range(3)]
        for turn in burst[:2]:
            limits.refused(turn.at, None)  # two in a row are no sign yet
        sent = []
        for _ in range(3):
            turn = await limits.turn(0, 0)
            sent.append(turn.at)
            limits.refused(turn.at, None)
        gaps = [after - before for before, after in pairwise(sent)]
        assert gaps[0] == pytest.approx(0.5, abs=0.15)
        assert gaps[1] == pytest.approx(1.0, abs=0.2)

    asyncio.run(run())


def test_a_refusal_now_and_then_slows_nobody_down() -> None:
    """A server that refuses one prompt in thirty, at whatever pace."""

    async def run() -> None:
        limits = HostLimits()
        for number in range(300):
            turn = await limits.turn(0, 0)
            if number % 30:
                limits.answered(turn, 0, 0)
            else:
                limits.refused(turn.at, None)
        assert max(await turns(limits, 100)) < 0.2

    asyncio.run(run())
