"""Misbehaviour on the wire: what a client may meet instead of a whole answer."""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from aiohttp import web

Respond = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
"""Answers a request badly, given what the good answer would be."""

_HOURS_S = 10_000.0
_DRIP_S, _FAST_DRIP_S = 0.5, 0.02
_HUGE = 64 * 2**20


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
    """Send a share of the body, and then "close", "reset", "hang", "drip" or "drip_fast"."""

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
        pause_s = {"drip": _DRIP_S, "drip_fast": _FAST_DRIP_S}.get(then, _HOURS_S)
        for byte in body[sent:]:
            await asyncio.sleep(pause_s)
            await response.write(bytes([byte]))
        return response

    return respond


def _body(
    body: bytes | str, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        found = body.encode() if isinstance(body, str) else body
        typed = {"Content-Type": "application/json", **headers}
        return web.Response(status=status, body=found, headers=typed)

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


async def _hang_in_head(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    _transport(request).write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    return await _hang(request, answer)


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * _HUGE, compresslevel=1)


async def _compressed_huge(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    return web.Response(body=_bomb(), headers={"Content-Encoding": "gzip"})


async def _huge(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Send the answer with a text without an end, piece by piece."""
    body = json.dumps(answer).encode()
    before, mark, after = body.partition(b'"content": "')
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(before + mark)
    for _ in range(_HUGE // 2**16):
        await response.write(b"y " * 2**15)
    await response.write(after)
    return response


def _typed(content_type: str) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=json.dumps(answer), content_type=content_type)

    return respond


def _says(status: int, words: str, code: str) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        error = {"message": words, "type": code, "code": code}
        return web.json_response({"error": error}, status=status)

    return respond


def _logprobs(value: float) -> Respond:
    """Send the good answer with this in place of each log-probability."""

    def change(answer: dict[str, Any]) -> Any:
        for choice in answer["choices"]:
            for token in (choice.get("logprobs") or {}).get("content", ()):
                for top in (token, *token["top_logprobs"]):
                    top["logprob"] = value
        return answer

    return _changed(change)


def _listed(change: Callable[[list[Any]], list[Any]]) -> Respond:
    return _changed(lambda answer: answer | {"choices": change(answer["choices"])})


async def _stream(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    events = [
        {"choices": [{"index": choice["index"], "delta": choice["message"]}]}
        for choice in answer["choices"]
    ]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return web.Response(text="".join(lines) + "data: [DONE]\n\n", content_type="text/event-stream")


def _redirect(to: str) -> Respond:
    async def respond(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": to})

    return respond


FAULTS: Mapping[str, Respond] = {
    "reset": _reset,
    "close": _close,
    "hang": _hang,
    "hang_in_head": _hang_in_head,
    "drip": _partly(share=0.1, then="drip"),
    "drip_fast": _partly(share=0.1, then="drip_fast"),
    "half": _partly(share=0.5, then="close"),
    "half_reset": _partly(share=0.5, then="reset"),
    "half_hang": _partly(share=0.5, then="hang"),
    "not_http": _not_http,
    "empty": _body(""),
    "null": _body("null"),
    "html": _body("<html><body>Welcome</body></html>"),
    "bad_json": _body('{"choices'),
    "bad_utf8": _bad_utf8,
    "bad_gzip": _body(b"no gzip", headers={"Content-Encoding": "gzip"}),
    "gzip_bomb": _compressed_huge,
    "huge": _huge,
    "html_502": _body(
        "<html><h1>502 Bad Gateway</h1></html>", status=502, headers={"Content-Type": "text/html"}
    ),
    "plain_type": _typed("text/plain"),
    "octet_type": _typed("application/octet-stream"),
    "no_choices": _listed(lambda choices: []),
    "no_list": _changed(lambda answer: {"object": answer["object"]}),
    "reversed": _listed(lambda choices: choices[::-1]),
    "same_choices": _listed(lambda choices: choices[:1] * len(choices)),
    "more_choices": _listed(lambda choices: choices * 2),
    "fewer_choices": _listed(lambda choices: choices[: max(1, len(choices) - 1)]),
    "stream": _stream,
    "nan_logprobs": _logprobs(float("nan")),
    "positive_logprobs": _logprobs(5.0),
    "no_message": _choices(message=None),
    "no_content": _message(content=None),
    "refusal": _message(content=None, refusal="I cannot help with that."),
    "only_reasoning": _message(content=None, reasoning_content="Let me see."),
    "broken_off": _choices(finish_reason="error"),
    "filtered": _choices(finish_reason="content_filter"),
    "error_in_200": _body('{"error": {"message": "Provider returned error", "code": 503}}'),
    "odd_usage": _usage(prompt_tokens=-5, completion_tokens="many", total_tokens=1e300),
    "usage_list": _changed(lambda answer: answer | {"usage": []}),
    "usage_fraction": _usage(prompt_tokens=5.5, completion_tokens=1),
    "redirect": _redirect("http://elsewhere.invalid/v1/chat/completions"),
    "redirect_loop": _redirect("/v1/chat/completions"),
    "quota": _says(429, "You exceeded your current quota", "insufficient_quota"),
    "unpaid": _says(402, "Insufficient credits", "payment_required"),
    "no_model": _says(404, "The model `mock` does not exist", "model_not_found"),
    "no_key": _says(401, "Incorrect API key provided", "invalid_api_key"),
}
"""By name; statuses such as 503 are faults, too."""
