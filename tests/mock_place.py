"""The mock server in a thread, for as long as a block."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefine.models.mock_server.server import MockServer


class Served(NamedTuple):
    """A running mock server: its URL with /v1, and itself, for what it counted."""

    url: str
    server: MockServer


@contextmanager
def mock_server(port: int | None = None, **options: Any) -> Iterator[Served]:
    """Serve until the block ends."""
    port = port or free_port()
    server, loop = MockServer(**options), asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        up = asyncio.Event()
        serving = asyncio.create_task(server.serve(port, up))
        await up.wait()
        ready.set()
        await serving

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    def stop() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield Served(f"http://127.0.0.1:{port}/v1", server)
    finally:
        loop.call_soon_threadsafe(stop)
        thread.join(10)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
