"""A chat server for `benchmarks/calls.py`: latency by a law, faults by chance, a book of both.

    python benchmarks/calls_server.py --port 9001 --latency logn:1:1 --faults 0.2 --drip 1

Every answer is a function of the request. `GET /stats` tells what happened since `POST /reset`:
how many requests were in flight on average between the first and the last, and the digests of all
bodies by their fate. A body is answered once 200 was written to a connection that was still open.
"""

import argparse
import asyncio
import hashlib
import json
import math
import random
import time
from collections import Counter
from typing import Any

WORDS = [
    "river",
    "stone",
    "cloud",
    "window",
    "garden",
    "letter",
    "number",
    "system",
    "answer",
    "question",
    "reason",
    "result",
]
FAULTS = (500, 502, 0)  # 0 closes the connection without an answer


class Book:
    """What the server has seen since the last reset."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.in_flight = 0
        self.area = self.longest = 0.0
        self.began: float | None = None
        self.last = self.ended = time.monotonic()

    def step(self, change: int) -> None:
        """Count requests in flight over time."""
        now = time.monotonic()
        self.area += self.in_flight * (now - self.last)
        self.last = now
        self.in_flight += change
        if change > 0 and self.began is None:
            self.began = now
        if change < 0:
            self.ended = now

    def stats(self) -> dict[str, Any]:
        """As JSON."""
        seconds = self.ended - (self.began or self.ended)
        return {
            "seconds": seconds,
            "in_flight": self.area / seconds if seconds else 0.0,
            "longest": self.longest,
            "asked": self.asked,
            "answered": self.answered,
        }


class Settings:
    """Latency, faults and the book; shared by all connections."""

    def __init__(self, latency: str, faults: float, drip: int, single: bool) -> None:
        law, *numbers = latency.split(":")
        self.law, self.numbers = law, [float(number) for number in numbers]
        self.faults, self.drip, self.single = faults, drip, single
        self.random = random.Random(7)
        self.book = Book()

    def seconds(self) -> float:
        """The latency of one request."""
        if self.law == "logn":
            median, sigma = self.numbers
            return median * math.exp(sigma * self.random.gauss(0, 1))
        return self.numbers[0] if self.numbers else 0.0


class Connection(asyncio.Protocol):
    """One client; requests come one after the other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.buffer = b""
        self.open = True

    def connection_made(self, transport: Any) -> None:
        """Keep the connection."""
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the client has gone."""
        self.open = False

    def data_received(self, data: bytes) -> None:
        """Gather a request."""
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        headers = head.decode("latin-1").lower()
        size = int(headers.partition("content-length:")[2].split("\r\n")[0] or 0)
        if len(rest) < size:
            return
        self.buffer = rest[size:]
        self.request(headers.split(" ", 2)[1], rest[:size])

    def request(self, path: str, body: bytes) -> None:
        """Answer a whole request, or let it wait."""
        settings = self.settings
        if path == "/stats":
            return self.send(200, settings.book.stats())
        if path == "/reset":
            settings.book = Book()
            return self.send(200, {})
        book = settings.book
        digest = hashlib.sha256(body).hexdigest()[:16]
        book.asked[digest] += 1
        book.step(+1)
        if settings.drip and len(book.asked) == settings.drip and book.asked[digest] == 1:
            return self.dripped(0)
        fault, seconds = settings.random.random() < settings.faults, settings.seconds()
        book.longest = max(book.longest, seconds)
        asyncio.get_running_loop().call_later(seconds, self.answer, book, digest, body, fault)
        return None

    def answer(self, book: Book, digest: str, body: bytes, fault: bool) -> None:
        """Send what was waited for."""
        book.step(-1)
        if not self.open or self.transport.is_closing():
            return
        if not fault:
            asked = json.loads(body) | ({"n": 1} if self.settings.single else {})
            self.send(200, completion(asked, body))
            book.answered[digest] += 1
            return
        status = self.settings.random.choice(FAULTS)
        if status:
            self.send(status, {"error": {"message": "busy"}}, "Retry-After: 0.05\r\n")
        else:
            self.transport.close()

    def dripped(self, sent: int) -> None:
        """Write the head at once, and then a byte every half second, for ever."""
        if not self.open:
            return
        if not sent:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        self.transport.write(b" ")
        asyncio.get_running_loop().call_later(0.5, self.dripped, sent + 1)

    def send(self, status: int, value: Any, headers: str = "") -> None:
        """Write a response."""
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def completion(request: dict[str, Any], body: bytes) -> dict[str, Any]:
    """The answer to a request: `n` texts, or a label with the log-probabilities of both labels."""
    asked = json.dumps([request["messages"], request.get("seed")], sort_keys=True)
    digest = hashlib.sha256(asked.encode()).digest()
    choices: list[dict[str, Any]] = []
    if request.get("logprobs"):
        p = 0.02 + 0.96 * int.from_bytes(digest[:4], "big") / 2**32
        top = [{"token": t, "logprob": math.log(q)} for t, q in (("A", p), ("B", 1 - p))]
        top.sort(key=lambda one: -one["logprob"])
        message = {"role": "assistant", "content": top[0]["token"]}
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        choices = [{"message": message, "finish_reason": "length", "logprobs": logprobs}]
    else:
        for number in range(request.get("n") or 1):
            words = random.Random(digest + bytes([number])).choices(WORDS, k=60)
            message = {"role": "assistant", "content": " ".join(words)}
            choices.append({"message": message, "finish_reason": "stop"})
    usage = {"prompt_tokens": len(body) // 4, "completion_tokens": 60 * len(choices)}
    return {"object": "chat.completion", "choices": choices, "usage": usage}


async def main() -> None:
    """Serve for an hour."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--latency", default="const:0", help="const:SECONDS or logn:MEDIAN:SIGMA")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that fail")
    parser.add_argument("--drip", type=int, default=0, help="the first body of this number drips")
    parser.add_argument("--single", action="store_true", help="one choice, whatever n says")
    options = parser.parse_args()
    settings = Settings(options.latency, options.faults, options.drip, options.single)
    loop = asyncio.get_running_loop()
    await loop.create_server(
        lambda: Connection(settings), "127.0.0.1", options.port, backlog=1024, reuse_address=True
    )
    print("up", flush=True)
    await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(main())
