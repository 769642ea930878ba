"""The pace at which one host is asked: learned from its refusals, shared by all who ask it.

The rate grows by addition while requests are answered and falls by a factor when one is refused
for being too many (429). What the host asks to wait holds for everybody. A user may give limits of
requests and tokens per minute beside that.
"""

import asyncio
import copy
import math
import time
from typing import NamedTuple

_FALL = 0.75
_GROWTH = 0.02  # of the rate at the last refusal, per second
_DOUBLES_S = 10.0  # without refusals the growth doubles in this time
_MEMORY_S = 2.0  # over which the rate of sending is measured
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# A few refusals are no sign of haste: a server may refuse some prompts always.
_SHARE, _SHARE_ALPHA, _IN_A_ROW = 0.08, 1 / 40, 3
_SLACK_S = 0.05  # what late timers may catch up
_BURST_S = 10.0  # tokens may be saved up for this long
_ALPHA = 0.05  # of the moving average of completion tokens


class Turn(NamedTuple):
    """When a request may be sent [s, monotonic], and the tokens set aside for it."""

    at: float
    tokens: float


class HostLimits:
    """The pace of requests to one host.

    Every request waits for its `turn`; afterwards it is `answered`, `refused` (429), or neither.
    """

    def __init__(self) -> None:
        self._turns = asyncio.Lock()  # who waits, in order
        self._rate = math.inf  # requests/s
        self._rate_at_refusal = 0.0
        self._refused_at = -math.inf
        self._grown_at = 0.0
        self._paused_until = -math.inf
        self._last = -math.inf
        # Without any answer since the last refusal, requests go one by one, `_pause_s` apart.
        self._answered_since = True
        self._pause_s = _FIRST_PAUSE_S
        self._refused_share = 0.0  # of the last answers, as a moving average
        self._refused_in_a_row = 0
        self._sent = 0.0  # decays with _MEMORY_S
        self._sent_at = 0.0
        self._requests_per_s = math.inf
        self._tokens_per_s = math.inf
        self._tokens = 0.0  # that may be used now
        self._filled_at = -math.inf
        self._mean_completion: float | None = None

    def elsewhere(self) -> "HostLimits":
        """Return limits with the same pace for another event loop."""
        found = copy.copy(self)
        found._turns = asyncio.Lock()
        return found

    def restrict(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """Add the user's limits; the strictest of a host holds."""
        if requests_per_minute is not None:
            self._requests_per_s = min(self._requests_per_s, requests_per_minute / 60)
        if tokens_per_minute is not None:
            self._tokens_per_s = min(self._tokens_per_s, tokens_per_minute / 60)

    async def turn(self, prompt_tokens: int, completion_tokens: int) -> Turn:
        """Wait until a request may be sent.

        Args:
            prompt_tokens: About how many it will use.
            completion_tokens: How many it may use at most.
        """
        async with self._turns:
            tokens = self._expected(prompt_tokens, completion_tokens)
            while (wait := self._wait(tokens)) > 0:
                # Look again: somebody may have been told to wait meanwhile.
                await asyncio.sleep(min(wait, 1.0))
            now = time.monotonic()
            self._last = max(self._last + 1 / self._pace(), now - _SLACK_S)
            self._tokens -= tokens
            self._sent = self._sent_recently(now) + 1
            self._sent_at = now
            return Turn(now, tokens)

    def answered(self, turn: Turn, prompt_tokens: int, completion_tokens: int) -> None:
        """Let the rate grow, and correct the tokens that were set aside for the request."""
        now = time.monotonic()
        self._answered_since = True
        self._pause_s = _FIRST_PAUSE_S
        self._refused_share *= 1 - _SHARE_ALPHA
        self._refused_in_a_row = 0
        if self._rate < math.inf:
            doubled = 2 ** min(10.0, (now - self._refused_at) / _DOUBLES_S)
            step = _GROWTH * max(self._rate_at_refusal, 1.0) * doubled
            self._rate += step * min(1.0, now - self._grown_at)
            self._grown_at = now
        if self._tokens_per_s < math.inf:
            self._tokens += turn.tokens - (prompt_tokens + completion_tokens)
            mean = self._mean_completion
            self._mean_completion = (
                float(completion_tokens)
                if mean is None
                else mean + _ALPHA * (completion_tokens - mean)
            )

    def refused(self, sent_at: float, wait_s: float | None) -> None:
        """Slow down after a 429.

        Args:
            sent_at: When the refused request was sent: those that were already under way at the
                last refusal say nothing new.
            wait_s: What the host asks to wait, of everybody.
        """
        if wait_s:
            self.pause(wait_s)
        self._refused_share += _SHARE_ALPHA * (1 - self._refused_share)
        self._refused_in_a_row += 1
        often = self._refused_share >= _SHARE or self._refused_in_a_row >= _IN_A_ROW
        if sent_at <= self._refused_at or not often:
            return
        now = time.monotonic()
        if self._answered_since:
            self._rate_at_refusal = min(self._rate, self._sent_recently(now) / _MEMORY_S)
            self._rate = max(_FALL * self._rate_at_refusal, 1 / _LONGEST_PAUSE_S)
            self._pause_s = _FIRST_PAUSE_S
        else:
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._answered_since = False
        self._refused_at = self._grown_at = now
        if not wait_s:
            self.pause(self._pause_s)

    def pause(self, seconds: float) -> None:
        """Send nothing for a while."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _expected(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The tokens that a request is likely to use; 0 where nobody limits them."""
        if self._tokens_per_s == math.inf:
            return 0.0
        mean = self._mean_completion
        return prompt_tokens + (completion_tokens if mean is None else min(completion_tokens, mean))

    def _wait(self, tokens: float) -> float:
        now = time.monotonic()
        wait = max(self._paused_until - now, self._last + 1 / self._pace() - now)
        if self._tokens_per_s < math.inf:
            most = _BURST_S * self._tokens_per_s
            self._tokens = min(self._tokens + self._tokens_per_s * (now - self._filled_at), most)
            self._filled_at = now
            # One that needs more than can be saved up goes when all is saved, and leaves a debt.
            wait = max(wait, (min(tokens, most) - self._tokens) / self._tokens_per_s)
        return wait

    def _pace(self) -> float:
        rate = self._rate if self._answered_since else 1 / self._pause_s
        return min(rate, self._requests_per_s)

    def _sent_recently(self, now: float) -> float:
        return self._sent * math.exp((self._sent_at - now) / _MEMORY_S)
