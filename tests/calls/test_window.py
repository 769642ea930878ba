"""Work side by side, taken in order."""

import asyncio
import random

import pytest

from prefine.calls.window import in_order


def test_results_come_in_order_and_room_is_kept() -> None:
    rng = random.Random(0)
    taken: list[tuple[int, int]] = []
    at_work = most = 0

    async def square(number: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(rng.random() / 200)
        at_work -= 1
        return number * number

    def take(number: int, result: int) -> None:
        taken.append((number, result))

    asyncio.run(in_order(range(200), square, take, at_work=7))
    assert taken == [(number, number * number) for number in range(200)]
    assert most == 7


def test_a_slow_item_holds_nobody_up_until_too_many_are_ahead() -> None:
    begun: list[int] = []

    async def main() -> None:
        slow = asyncio.Event()

        async def work(number: int) -> None:
            begun.append(number)
            if number == 0:
                await slow.wait()

        running = asyncio.create_task(in_order(range(1000), work, lambda *_: None, at_work=4))
        await asyncio.sleep(0.1)
        ahead = len(begun)
        slow.set()
        await running
        assert 4 < ahead < 100, "others went on, and not for ever: their results wait in memory"

    asyncio.run(main())
    assert begun == list(range(1000))


def test_an_error_ends_the_others() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    with pytest.raises(ValueError, match="three"):
        asyncio.run(in_order(range(9), work, lambda *_: None, at_work=5))
    assert cancelled == [0, 1, 2, 4]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_order(range(9), asyncio.sleep, lambda *_: 1 / 0, at_work=5))
