"""The book of the mock server: which requests came, when, and what became of them."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Book:
    """Counts requests by their content, and those in flight over time."""

    requests: int = 0
    probes: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Contents that got a 200, written whole to a connection that was open."""

    def __post_init__(self) -> None:
        self._began = self._changed_at = time.monotonic()
        self._first_at: float | None = None
        self._ended_at = self._began
        self._in_flight = 0
        self._area = self._longest_s = 0.0
        self._per_second: Counter[int] = Counter()
        self._served_per_second: Counter[int] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def age_s(self) -> float:
        """Seconds since the server began."""
        return time.monotonic() - self._began

    @contextmanager
    def request(self, content: str) -> Iterator[None]:
        """Count a request while it is in flight."""
        began = time.monotonic()
        self.requests += 1
        self.asked[content] += 1
        self._per_second[int(began - self._began)] += 1
        self._first_at = self._first_at or began
        self._step(+1)
        try:
            yield
        finally:
            self._step(-1)
            self._ended_at = time.monotonic()
            self._longest_s = max(self._longest_s, self._ended_at - began)
            self._seconds[content] += self._ended_at - began

    def served(self, content: str) -> None:
        """Count a 200 that was written."""
        self.answered[content] += 1
        self._served_per_second[int(self.age_s)] += 1

    def _step(self, change: int) -> None:
        now = time.monotonic()
        self._area += self._in_flight * (now - self._changed_at)
        self._changed_at = now
        self._in_flight += change

    def stats(self) -> dict[str, Any]:
        """Return all counts but those of single contents."""
        seconds = self._ended_at - (self._first_at or self._ended_at)
        each = range(max(self._per_second, default=-1) + 1)
        return {
            "requests": self.requests,
            "probes": self.probes,
            "statuses": dict(self.statuses),
            "answered": self.answered.total(),
            "contents_answered": len(self.answered),
            "seconds": seconds,
            "in_flight": self._area / seconds if seconds else 0.0,
            "longest_s": self._longest_s,
            "longest_with_tries_s": max(self._seconds.values(), default=0.0),
            "per_second": [self._per_second[second] for second in each],
            "served_per_second": [self._served_per_second[second] for second in each],
        }
