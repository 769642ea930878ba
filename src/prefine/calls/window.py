"""Many pieces of work at a time, their results taken in order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 8
"""Items begun and not yet taken, in multiples of those at work."""


async def in_order(
    items: Iterable[T],
    work: Callable[[T], Awaitable[R]],
    take: Callable[[T, R], None],
    *,
    at_work: int,
) -> None:
    """Work on many items at a time, and take their results in the order of the items.

    Items are begun as room is made, whatever is still at work before them: one slow item holds
    nobody up until `at_work` times a few have been finished behind it.

    Args:
        items: Read as they are begun.
        work: Makes the result of an item.
        take: Called with an item and its result, in order.
        at_work: The most items at work.

    Raises:
        Exception: The first error of `work` or `take`; the other items are cancelled.
    """
    begun: deque[tuple[T, asyncio.Task[R]]] = deque()
    running = 0
    ended = asyncio.Event()
    failed: list[asyncio.Task[R]] = []

    def end(task: asyncio.Task[R]) -> None:
        nonlocal running
        running -= 1
        if task.cancelled() or task.exception() is not None:
            failed.append(task)
        ended.set()

    async def begin(item: T) -> R:
        return await work(item)

    rest = iter(items)
    more = True
    try:
        while more or begun:
            while more and running < at_work and len(begun) < _AHEAD * at_work:
                try:
                    item = next(rest)
                except StopIteration:
                    more = False
                    break
                task = asyncio.create_task(begin(item))
                task.add_done_callback(end)
                begun.append((item, task))
                running += 1
            if begun and not begun[0][1].done():
                ended.clear()
                await ended.wait()
            if failed:
                failed[0].result()
            while begun and begun[0][1].done():
                item, task = begun.popleft()
                take(item, task.result())
    finally:
        open_tasks = [task for _, task in begun if not task.done()]
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
