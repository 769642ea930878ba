"""An OpenAI-compatible chat server on loopback that answers by a test's script, faults too.

    with OpenAIServer(lambda request, number: Reply(texts("blue", "red"))) as server:
        client = openai.OpenAI(base_url=server.url, api_key="planted")

`number` counts requests from 0. A list of replies is worked off in order, the last one repeats.
Every request is recorded, with the largest number that were under way at once.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Choice:
    """One choice: its text (None is `null`), finish reason, and what the first position's
    top_logprobs are.
    """

    text: str | None = ""
    finish_reason: str = "stop"
    first_logps: Mapping[str, float] | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Reply:
    """A response. `body` replaces the completion that is made of `choices` (a string is
    sent as it is).
    """

    choices: Sequence[Choice] = (Choice("an answer"),)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    usage: bool = True
    delay_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """A client's request; header names in lower case."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


Script = Callable[[dict[str, Any], int], Reply]


# --- what servers do


def texts(*answers: str) -> list[Choice]:
    """Choices that say these texts."""
    return [Choice(answer) for answer in answers]


def honours_n(request: dict[str, Any], number: int) -> Reply:
    """As many different choices as asked for; never the same twice."""
    return Reply(texts(*(f"answer {number}.{index}" for index in range(request.get("n") or 1))))


def ignores_n(request: dict[str, Any], number: int) -> Reply:
    """One choice whatever `n` says, each request another one, no logprobs."""
    return Reply(texts(f"answer {number}"))


def duplicates(request: dict[str, Any], number: int) -> Reply:
    """As many choices as asked for, all the same, in every request: a server that samples
    greedily.
    """
    return Reply(texts(*["the same answer"] * (request.get("n") or 1)))


def label_judge(p_first: float, *, variants: bool = False) -> Script:
    """A judge that says A with this probability; logprobs only to who asks for them."""
    shares = {"A": 0.97 * p_first, "B": 0.97 * (1 - p_first), "The": 0.03}
    if variants:
        shares = {"A": 0.6 * p_first, " A": 0.37 * p_first, "B": 0.97 * (1 - p_first), "The": 0.03}
    logps = {token: math.log(p) for token, p in shares.items() if p > 0}

    def script(request: dict[str, Any], number: int) -> Reply:
        said = "A" if p_first >= 0.5 else "B"
        return Reply([Choice(said, first_logps=logps if request.get("logprobs") else None)])

    return script


def in_turn(*replies: Reply | Script) -> Script:
    """Each request gets the next one; the last one stays."""

    def script(request: dict[str, Any], number: int) -> Reply:
        reply = replies[min(number, len(replies) - 1)]
        return reply if isinstance(reply, Reply) else reply(request, number)

    return script


def _error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


RATE_LIMITED = Reply(
    status=429,
    headers={"Retry-After": "0.05"},
    body=_error("Rate limit reached", "requests", "rate_limit_exceeded"),
)
SERVER_ERROR = Reply(status=500, body=_error("The server had an error", "server_error"))
OVERLOADED = Reply(status=503, body="<html>upstream connect error</html>")
NO_SUCH_MODEL = Reply(
    status=404,
    body=_error("The model `x` does not exist", "invalid_request_error", "model_not_found"),
)
BAD_REQUEST = Reply(status=400, body=_error("n must be 1", "invalid_request_error"))
TOO_LONG = Reply(
    status=400,
    body=_error(
        "This model's maximum context length is 8 tokens",
        "invalid_request_error",
        "context_length_exceeded",
    ),
)
INVALID_JSON = Reply(body='{"id": "chatcmpl-1", "choices": [{"index"')
EMPTY_CHOICES = Reply(choices=())
NULL_CONTENT = Reply([Choice(None)])
EMPTY_CONTENT = Reply([Choice("")])
REFUSAL = Reply([Choice(None, refusal="I cannot help with that")])
CUT = Reply([Choice("an answer that is cut", "length")])
FILTERED = Reply([Choice(None, "content_filter")])
NO_USAGE = Reply(usage=False)
HANGS = Reply(delay_s=60.0)
"""Held back until the server stops or a minute has passed; give the client a timeout."""


def unauthorized(request: dict[str, Any], number: int) -> Reply:
    """A 401 whose body repeats the key that was sent; the server fills it in for
    {authorization}.
    """
    return Reply(
        status=401, body=_error("Incorrect API key: {authorization}", "auth", "invalid_api_key")
    )


# --- the server


class OpenAIServer:
    """Serves `POST {url}/chat/completions` and `GET {url}/models` until the `with` block ends."""

    def __init__(
        self,
        reply: Script | Reply | Sequence[Reply] = honours_n,
        *,
        model: str | None = None,
        models: Reply | None = None,
    ) -> None:
        """With `model`, requests that name another one get a 404, and are recorded too; `models`
        answers who asks for the list of them.
        """
        if isinstance(reply, Reply):
            self._script = in_turn(reply)
        else:
            self._script = reply if callable(reply) else in_turn(*reply)
        self._model = model
        listed = [{"id": model or "any", "object": "model", "owned_by": "test"}]
        self._models = models or Reply(body={"object": "list", "data": listed})
        self.lists_asked = 0
        self._lock = threading.Lock()
        self._under_way = 0
        self._stopping = threading.Event()
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._server = _Listener(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        """The base URL, with /v1."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def stopped(self) -> bool:
        """True once the block has ended: open connections get no more answers."""
        return self._stopping.is_set()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Bodies of all requests, in order of arrival."""
        return [request.body for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def answer_list(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """The response to `GET {url}/models`."""
        if request.path != "/v1/models":
            return 404, {}, b"{}"
        with self._lock:
            self.lists_asked += 1
        return _response(self._models, request, self._models.body)

    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Record the request and make its response; called by the handler's threads."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            if self._model is not None and request.body.get("model") != self._model:
                reply = NO_SUCH_MODEL
            else:
                reply = self._script(request.body, number)
            self._stopping.wait(reply.delay_s)
        finally:
            with self._lock:
                self._under_way -= 1
        body = _completion(reply, request.body, number) if reply.body is None else reply.body
        return _response(reply, request, body)


def _response(reply: Reply, request: Request, body: Any) -> tuple[int, dict[str, str], bytes]:
    text = body if isinstance(body, str) else json.dumps(body)
    text = text.replace("{authorization}", request.headers.get("authorization", ""))
    return reply.status, {"Content-Type": "application/json", **reply.headers}, text.encode()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def _completion(reply: Reply, request: dict[str, Any], number: int) -> dict[str, Any]:
    prompt_tokens = sum(
        len(str(m.get("content") or "").split()) for m in request.get("messages", [])
    )
    completion_tokens = sum(len((choice.text or "").split()) for choice in reply.choices)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.get("model", ""),
        "choices": [_choice(choice, index) for index, choice in enumerate(reply.choices)],
        **({"usage": usage} if reply.usage else {}),
    }


def _choice(choice: Choice, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text}
    if choice.refusal is not None:
        message["refusal"] = choice.refusal
    logprobs = None
    if choice.first_logps is not None:
        top = [
            {"token": token, "logprob": logp, "bytes": list(token.encode())}
            for token, logp in sorted(choice.first_logps.items(), key=lambda item: -item[1])
        ]
        logprobs = {"content": [{**top[0], "top_logprobs": top}] if top else [], "refusal": None}
    return {
        "index": index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "logprobs": logprobs,
    }


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if self.path != "/v1/chat/completions":
                self._send(404, {}, b'{"error": {"message": "no such route"}}')
                return
            self._send(*server.answer(Request(self.path, headers, json.loads(content))))

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(*server.answer_list(Request(self.path, headers, {})))

        def _send(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
            if server.stopped:
                self.close_connection = True
                return
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # the client gave up waiting

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
