"""Coroutines for callers that block: an event loop in a thread of its own."""

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

from prefine.calls.http import close_connections

T = TypeVar("T")


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background loop, and return its result."""
    return asyncio.run_coroutine_threadsafe(coroutine, _background_loop()).result()


@cache
def _background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="prefine-loop", daemon=True).start()
    atexit.register(_close, loop)
    return loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close what is kept open; a process that ends does not wait long for it."""
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(close_connections(), loop).result(timeout=1)
