"""Serve the viewer on this machine alone, until it is told to stop."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from prefine.errors import ConfigError

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 2


def listen(port: int) -> socket.socket:
    """Return a socket that listens on the loopback interface.

    Args:
        port: Or 0 for any that is free.

    Raises:
        ConfigError: The port is taken, or may not be used.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((LOOPBACK, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"--port {port}: {said}; choose another, or leave it out") from error
    return listening


class _Idle:
    """Notes when the app was last asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self.asked = app, asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        self.asked.set()
        await self._app(scope, receive, send)


def serve(
    app: ASGIApp,
    listening: socket.socket,
    *,
    stop_after_s: float | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until Ctrl-C, SIGTERM, or a time without a request.

    Args:
        app: What is served.
        listening: Where.
        stop_after_s: End after so long without a request; None for never.
        on_ready: Called once requests are answered.
    """
    # uvicorn ends its work at Ctrl-C, and raises the signal once more when it has.
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, listening, stop_after_s, on_ready))


async def _serve(
    app: ASGIApp,
    listening: socket.socket,
    stop_after_s: float | None,
    on_ready: Callable[[], None],
) -> None:
    idle = _Idle(app)
    server = uvicorn.Server(
        uvicorn.Config(
            idle,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_PATIENCE_S,
        )
    )

    async def watch() -> None:
        while not server.started and not server.should_exit:
            await asyncio.sleep(0.01)
        on_ready()
        while stop_after_s is not None:
            idle.asked.clear()
            try:
                await asyncio.wait_for(idle.asked.wait(), stop_after_s)
            except TimeoutError:
                server.should_exit = True
                return

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listening])
    watching.cancel()
