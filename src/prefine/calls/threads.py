"""Blocking functions beside the event loop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar, cast

THREADS = "prefine-call"
"""The names of the threads that wait for answers begin with this."""

R = TypeVar("R")
Arguments = ParamSpec("Arguments")


def in_threads(
    function: Callable[Arguments, R | Awaitable[R]], count: int
) -> Callable[Arguments, Awaitable[R]]:
    """Return a coroutine function as it is, and any other one as one that runs in threads.

    The threads are its own, started when they are needed; with a `count` of 1, all its calls run in
    the same thread, one after the other.
    """
    if inspect.iscoroutinefunction(function):
        return cast(Callable[Arguments, Awaitable[R]], function)
    blocking = cast(Callable[Arguments, R], function)
    pool = ThreadPoolExecutor(count, thread_name_prefix=THREADS)

    async def run(*args: Arguments.args, **options: Arguments.kwargs) -> R:
        call = partial(blocking, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    return run
