"""One HTTP request: one deadline for everything, bounded sizes, no redirects, kept connections.

The standard to read a status by is the caller's; here a reply is whole or it is a `NoReply`.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp

LARGEST_BODY = 32 * 2**20
"""The longest body that is read [bytes], as it comes and decompressed."""

# Servers close idle connections after 5 s and more; one that is closed just as it is used again
# costs a request.
_KEPT_S = 4.0
_LOOPBACK = frozenset(["127.0.0.1", "localhost", "::1"])
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class HttpReply(NamedTuple):
    """A whole reply; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReply(Exception):
    """There is no whole reply, for the reason in the message.

    `kind` is "unreachable" if nothing was sent, "timeout", "broken" if the connection or the body
    was, and "too large".
    """

    def __init__(
        self, kind: Literal["unreachable", "timeout", "broken", "too large"], reason: str
    ) -> None:
        super().__init__(reason)
        self.kind = kind


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, aiohttp.ClientSession]] = (
    WeakKeyDictionary()
)
"""Of each event loop, the session to this machine itself (True) and the one to all others."""


async def post_json(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float
) -> HttpReply:
    """Send a JSON body and return the reply, whatever its status.

    Args:
        url: Where to.
        body: The JSON.
        headers: Sent beside the content type.
        timeout_s: For connecting, sending and reading together, so that a slow drip ends, too.

    Raises:
        NoReply: There is no whole reply.
    """
    sent = {"Content-Type": "application/json", **headers}
    return await send("POST", url, body, sent, timeout_s=timeout_s)


async def send(
    method: str,
    url: str,
    body: "bytes | aiohttp.FormData | None",
    headers: Mapping[str, str],
    *,
    timeout_s: float,
) -> HttpReply:
    """Send a request and return the reply, whatever its status; else as `post_json`."""
    sent = {"Accept-Encoding": "gzip, deflate", **headers}
    with _as_no_reply(timeout_s):
        async with (
            asyncio.timeout(timeout_s),
            _session(url).request(
                method, url, data=body, headers=sent, allow_redirects=False
            ) as response,
        ):
            found = {name.lower(): value for name, value in response.headers.items()}
            raw = await _read(response)
            return HttpReply(response.status, found, _decompressed(raw, found))


async def read_lines(
    url: str, headers: Mapping[str, str], take: Callable[[bytes], None], *, timeout_s: float
) -> HttpReply:
    """Read a file of any size line by line; a reply that is no success is returned whole.

    Args:
        url: Where from.
        headers: Sent.
        take: Called with each line.
        timeout_s: For connecting and the first line, and for each further line.

    Raises:
        NoReply: The file ended early; lines may have been taken before.
    """
    sent = {"Accept-Encoding": "identity", **headers}
    clock = asyncio.get_running_loop().time
    with _as_no_reply(timeout_s):
        async with (
            asyncio.timeout(timeout_s) as deadline,
            _session(url).get(url, headers=sent, allow_redirects=False) as response,
        ):
            found = {name.lower(): value for name, value in response.headers.items()}
            if response.status != 200:
                return HttpReply(response.status, found, await _read(response))
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    take(line)
                    deadline.reschedule(clock() + timeout_s)
                if len(rest) > LARGEST_BODY:
                    raise _too_large()
            if rest:
                take(rest)
            return HttpReply(200, found, b"")


@contextmanager
def _as_no_reply(timeout_s: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise NoReply("timeout", f"no answer within {timeout_s:g} s") from None
    except aiohttp.ClientConnectorError as error:
        raise NoReply("unreachable", f"the server cannot be reached ({error})") from None
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        raise NoReply("broken", "the connection was closed without an answer") from None
    except aiohttp.ClientPayloadError:
        raise NoReply("broken", "the connection was closed within the answer") from None
    except aiohttp.ClientError as error:
        raise NoReply("broken", f"the answer is no HTTP ({type(error).__name__})") from None


async def close_connections() -> None:
    """Close the connections of this event loop."""
    for session in _sessions.pop(asyncio.get_running_loop(), {}).values():
        await session.close()


def url_below(base_url: str, path: str) -> str:
    """The URL of a path below another one, whose query it keeps."""
    url, _, query = base_url.partition("?")
    mark = "&" if "?" in path else "?"
    return url.rstrip("/") + path + (mark + query if query else "")


def origin_of(url: str) -> str:
    """The scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _session(url: str) -> aiohttp.ClientSession:
    sessions = _sessions.setdefault(asyncio.get_running_loop(), {})
    here = urlsplit(url).hostname in _LOOPBACK
    session = sessions.get(here)
    if session is None:
        session = sessions[here] = aiohttp.ClientSession(
            # The caller's slots are the limit.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Decompressed here, within a limit.
            auto_decompress=False,
            # A proxy would look for a server of this machine on its own.
            trust_env=not here,
        )
    return session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_BODY:
            response.close()
            raise _too_large()
    return b"".join(chunks)


def _decompressed(raw: bytes, headers: Mapping[str, str]) -> bytes:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", "") or not raw:
        return raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise NoReply("broken", f"the answer is compressed as {encoding[:20]!r}, not as asked for")
    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        body = decoder.decompress(raw, LARGEST_BODY + 1)
    except zlib.error:
        raise NoReply("broken", "the answer cannot be decompressed") from None
    if len(body) > LARGEST_BODY:
        raise _too_large()
    if not decoder.eof:
        raise NoReply("broken", "the answer cannot be decompressed")
    return body


def _too_large() -> NoReply:
    return NoReply("too large", f"the answer is larger than {LARGEST_BODY // 2**20} MiB")
