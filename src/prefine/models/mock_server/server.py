"""The mock server: latencies, a limiter, an outage and faults around the scripted answers."""

import asyncio
import email.utils
import json
import math
import random
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from prefine.errors import ConfigError
from prefine.models.mock_server.answers import completion
from prefine.models.mock_server.batches import BATCH_FAULTS, BatchDesk
from prefine.models.mock_server.book import Book
from prefine.models.mock_server.faults import FAULTS
from prefine.models.mock_server.profiles import PROFILES
from prefine.models.openai.server import PROBE
from prefine.records import content_hash

RetryAfter = Literal["none", "seconds", "date", "ms", "words"]
_LARGEST_REQUEST = 64 * 2**20
_WAIT_S = 2.0  # that the limiter asks for


@dataclass(kw_only=True)
class MockServer:
    """A chat server for rehearsals. Its answers are functions of the requests.

    Args:
        profile: The provider whose refusals and manners it has.
        latency_s: The median time of an answer; `spread` is the sigma of its logarithm.
        spread: 0 is the same latency always.
        fault: A name of `FAULTS`, or a status such as "503".
        fault_share: The share of requests with the fault.
        fault_by: `content` chooses the same requests every time, `chance` any.
        limit: Requests per second that are served; the others get a 429.
        retry_after: The way in which a 429 asks to wait.
        outage: Seconds from when until when all requests meet the fault instead; then
            `fault_share` does not count.
        seed: Of the latencies.
    """

    profile: str = "plain"
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    spread: Annotated[float, Field(ge=0)] = 0.0
    fault: str | None = None
    fault_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    fault_by: Literal["content", "chance"] = "content"
    limit: Annotated[float, Field(gt=0)] | None = None
    retry_after: RetryAfter = "seconds"
    outage: tuple[float, float] | None = None
    seed: int = 0
    book: Book = field(default_factory=Book, init=False)

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ConfigError(f"profile: {self.profile!r}; it is one of {', '.join(PROFILES)}")
        names = (*FAULTS, *BATCH_FAULTS)
        if self.fault is not None and self.fault not in names and not self.fault.isdecimal():
            raise ConfigError(f"fault: {self.fault!r}; it is a status or one of {', '.join(names)}")
        self._profile = PROFILES[self.profile]
        self.batches = BatchDesk(
            self._answered_line,
            latency_s=self.latency_s,
            fault=self.fault if self.fault in BATCH_FAULTS else None,
            fault_share=self.fault_share,
        )
        self._draws = random.Random(self.seed)
        self._tokens = self.limit or 0.0
        self._filled_at = time.monotonic()

    def app(self) -> web.Application:
        """Return the application: the chat endpoint, batch files, `GET /stats` and `/bodies`."""
        app = web.Application(client_max_size=_LARGEST_REQUEST)
        app.router.add_post("/v1/chat/completions", self._chat)
        self.batches.add_routes(app.router)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/bodies", self._bodies)
        return app

    async def serve(self, port: int, ready: asyncio.Event | None = None) -> None:
        """Serve on loopback until it is cancelled."""
        runner = web.AppRunner(
            self.app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
            if ready is not None:
                ready.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        content = content_hash(raw.decode(errors="replace"))
        with self.book.request(content):
            return await self._respond(request, raw, content)

    async def _respond(self, request: web.Request, raw: bytes, content: str) -> web.StreamResponse:
        try:
            body = json.loads(raw)
        except ValueError:
            return self._error(400, "the body is no JSON")
        if not self._served(time.monotonic()):
            return self._busy()
        if refusal := self._profile.refuses(body):
            return self._error(refusal.status, refusal.words, refusal.parameter)
        if self._is_faulty(body):
            return await self._faulty(request, body)
        if self.latency_s:
            spread = self._draws.gauss(0, self.spread) if self.spread else 0.0
            await asyncio.sleep(self.latency_s * math.exp(spread))
        response = web.json_response(self._answer(body))
        # Written here, so that what is counted has been written.
        await response.prepare(request)
        await response.write_eof()
        self.book.statuses["200"] += 1
        if body["messages"] == PROBE:
            self.book.probes += 1
        else:
            self.book.served(content)
        return response

    async def _answered_line(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a line of a batch file."""
        if refusal := self._profile.refuses(body):
            words = (refusal.status, refusal.words, refusal.parameter)
            return refusal.status, self._profile.shape(*words)
        if self.fault is not None and self.fault.isdecimal() and self._is_faulty(body):
            status = int(self.fault)
            return status, self._profile.shape(status, "the mock server fails on purpose", None)
        return 200, self._answer(body)

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = self._profile.as_asked(body)
        # Without a seed each request draws anew, as at a provider that takes none.
        answer = completion({"seed": f"request {self.book.requests}"} | asked)
        self._profile.manners(answer)
        return answer

    def _served(self, now: float) -> bool:
        """Take a token of the bucket, which holds a second's worth."""
        if self.limit is None:
            return True
        self._tokens = min(self.limit, self._tokens + self.limit * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _busy(self) -> web.Response:
        words = "Rate limit reached for requests"
        headers = {
            "none": {},
            "seconds": {"Retry-After": f"{_WAIT_S:g}"},
            "date": {"Retry-After": email.utils.formatdate(time.time() + _WAIT_S, usegmt=True)},
            "ms": {"retry-after-ms": f"{_WAIT_S * 1e3:g}"},
            "words": {},
        }[self.retry_after]
        if self.retry_after == "words":
            words += f". Please try again in {_WAIT_S:g}s."
        return self._error(429, words, headers=headers)

    def _is_faulty(self, body: dict[str, Any]) -> bool:
        if self.fault is None or self.fault in BATCH_FAULTS:
            return False
        if self.outage is not None:
            return self.outage[0] <= self.book.age_s < self.outage[1]
        if self.fault_by == "chance":
            return self._draws.random() < self.fault_share
        draw = int(content_hash("fault", body["messages"], body.get("seed")), 16) / 16.0**16
        return draw < self.fault_share

    async def _faulty(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert self.fault is not None
        if self.fault.isdecimal():
            return self._error(int(self.fault), "the mock server fails on purpose")
        self.book.statuses[self.fault] += 1
        return await FAULTS[self.fault](request, self._answer(body))

    def _error(
        self,
        status: int,
        words: str,
        parameter: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> web.Response:
        self.book.statuses[str(status)] += 1
        shaped = self._profile.shape(status, words, parameter)
        return web.json_response(shaped, status=status, headers=headers)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "mock", "object": "model"}]})

    async def _stats(self, request: web.Request) -> web.Response:
        twice = sum(count > 1 for count in self.batches.lines.values())
        batches = {"batches": self.batches.created, "batched_twice": twice}
        return web.json_response(self.book.stats() | batches)

    async def _bodies(self, request: web.Request) -> web.Response:
        return web.json_response({"asked": self.book.asked, "answered": self.book.answered})
