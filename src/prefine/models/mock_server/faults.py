"""Misbehaviour on the wire: what a client may meet instead of a whole answer."""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

Respond = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
"""Answers a request badly, given what the good answer would be."""

_HOURS_S = 10_000.0
_DRIP_S = 0.5
_BOMB = 200 * 2**20


def _transport(request: web.Request) -> asyncio.Transport:
    assert isinstance(request.transport, asyncio.Transport)
    return request.transport


async def _reset(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    transport = _transport(request)
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
    return web.Response()


async def _close(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    _transport(request).close()
    return web.Response()


async def _hang(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    await asyncio.sleep(_HOURS_S)
    return web.Response()


def _partly(*, share: float, then: str) -> Respond:
    """Send a share of the body, and then "close", "reset", "hang" or "drip"."""

    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        body = json.dumps(answer).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        sent = int(share * len(body))
        await response.write(body[:sent])
        if then == "reset":
            return await _reset(request, answer)
        if then == "close":
            return await _close(request, answer)
        for byte in body[sent:]:
            await asyncio.sleep(_DRIP_S if then == "drip" else _HOURS_S)
            await response.write(bytes([byte]))
        return response

    return respond


def _body(body: bytes | str, **headers: str) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        found = body.encode() if isinstance(body, str) else body
        return web.Response(body=found, headers={"Content-Type": "application/json", **headers})

    return respond


def _changed(change: Callable[[dict[str, Any]], Any]) -> Respond:
    """Send the good answer after a change to it."""

    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(change(answer))

    return respond


def _message(**fields: Any) -> Respond:
    def change(answer: dict[str, Any]) -> Any:
        for choice in answer["choices"]:
            choice["message"] |= fields
        return answer

    return _changed(change)


def _choices(**fields: Any) -> Respond:
    return _changed(
        lambda answer: answer | {"choices": [choice | fields for choice in answer["choices"]]}
    )


def _usage(**fields: Any) -> Respond:
    return _changed(lambda answer: answer | {"usage": fields})


async def _bad_utf8(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    body = json.dumps(answer).encode().replace(b'"content": "', b'"content": "\xff\xfe')
    return web.Response(body=body, content_type="application/json")


async def _not_http(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    _transport(request).write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    return await _close(request, answer)


async def _bomb(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    body = await asyncio.to_thread(gzip.compress, b" " * _BOMB)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


def _redirect(to: str) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": to})

    return respond


FAULTS: Mapping[str, Respond] = {
    "reset": _reset,
    "close": _close,
    "hang": _hang,
    "drip": _partly(share=0.1, then="drip"),
    "half": _partly(share=0.5, then="close"),
    "half_reset": _partly(share=0.5, then="reset"),
    "half_hang": _partly(share=0.5, then="hang"),
    "not_http": _not_http,
    "empty": _body(""),
    "null": _body("null"),
    "html": _body("<html><body>Welcome</body></html>"),
    "bad_json": _body('{"choices'),
    "bad_utf8": _bad_utf8,
    "bad_gzip": _body(b"no gzip", **{"Content-Encoding": "gzip"}),
    "gzip_bomb": _bomb,
    "no_choices": _changed(lambda answer: answer | {"choices": []}),
    "no_message": _choices(message=None),
    "no_content": _message(content=None),
    "refusal": _message(content=None, refusal="I cannot help with that."),
    "only_reasoning": _message(content=None, reasoning_content="Let me see."),
    "broken_off": _choices(finish_reason="error"),
    "filtered": _choices(finish_reason="content_filter"),
    "error_in_200": _body('{"error": {"message": "Provider returned error", "code": 503}}'),
    "odd_usage": _usage(prompt_tokens=-5, completion_tokens="many", total_tokens=1e300),
    "redirect": _redirect("http://elsewhere.invalid/v1/chat/completions"),
}
"""By name; statuses such as 503 are faults, too."""
