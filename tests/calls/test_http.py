"""One request: its deadline, its sizes, and the ways in which there is no whole reply."""

import asyncio
import gzip
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from prefine.calls.http import LARGEST_BODY, HttpReply, NoReply, close_connections, post_json

Script = Callable[[socket.socket], None]


@contextmanager
def listener(script: Script) -> Iterator[str]:
    """A server whose every connection gets the script, after its request has come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stopping = threading.Event()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    with suppress(OSError):  # the client may have left
                        script(connection)
                    stopping.wait(0.01)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        stopping.set()
        listening.shutdown(socket.SHUT_RDWR)


def sends(head: str, body: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        connection.sendall(
            f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )

    return script


def ask(url: str, timeout_s: float = 5.0) -> HttpReply:
    async def run() -> HttpReply:
        try:
            return await post_json(url, b"{}", {"X-Test": "1"}, timeout_s=timeout_s)
        finally:
            await close_connections()

    return asyncio.run(run())


def drips(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.05)


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices": [')


def test_a_status_is_no_exception() -> None:
    with listener(sends("503 Busy\r\nRetry-After: 3", b"busy")) as url:
        assert ask(url) == (503, {"retry-after": "3", "content-length": "4"}, b"busy")


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        (resets, "broken", "without an answer"),
        (lambda connection: None, "broken", "without an answer"),
        (half, "broken", "within the answer"),
        (lambda connection: connection.sendall(b"SSH-2.0-x\r\n\r\n"), "broken", "no HTTP"),
        (sends("200 OK\r\nContent-Encoding: gzip", b"no gzip"), "broken", "decompressed"),
        (sends("200 OK\r\nContent-Encoding: br", b"x"), "broken", "compressed as 'br'"),
        (
            sends("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"x" * 999)[:-9]),
            "broken",
            "decompressed",
        ),
        (sends("200 OK", b" " * (LARGEST_BODY + 1)), "too large", "32 MiB"),
        (
            sends("200 OK\r\nContent-Encoding: gzip", gzip.compress(b" " * 2 * LARGEST_BODY)),
            "too large",
            "32 MiB",
        ),
    ],
)
def test_what_is_no_whole_reply(script: Script, kind: str, says: str) -> None:
    with listener(script) as url, pytest.raises(NoReply, match=says) as raised:
        ask(url)
    assert raised.value.kind == kind


@pytest.mark.parametrize("script", [drips, lambda connection: time.sleep(2)])
def test_the_deadline_is_for_the_whole(script: Script) -> None:
    with listener(script) as url:
        began = time.monotonic()
        with pytest.raises(NoReply, match=r"no answer within 0.5 s") as raised:
            ask(url, timeout_s=0.5)
        assert time.monotonic() - began < 1.5
    assert raised.value.kind == "timeout"


def test_nobody_listens() -> None:
    with listener(resets) as url:
        pass
    with pytest.raises(NoReply, match="cannot be reached") as raised:
        ask(url)
    assert raised.value.kind == "unreachable"


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [("gzip", gzip.compress(b'{"a": 1}')), ("deflate", zlib.compress(b'{"a": 1}'))],
    ids=["gzip", "deflate"],  # the time is in the bytes
)
def test_compressed_bodies_are_read(encoding: str, packed: bytes) -> None:
    with listener(sends(f"200 OK\r\nContent-Encoding: {encoding}", packed)) as url:
        assert ask(url).body == b'{"a": 1}'


def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    def elsewhere(connection: socket.socket) -> None:
        asked.append("elsewhere")

    with (
        listener(elsewhere) as other,
        listener(sends(f"307 Moved\r\nLocation: {other}", b"")) as url,
    ):
        assert ask(url).status == 307
    assert not asked
