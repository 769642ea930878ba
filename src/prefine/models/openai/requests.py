"""Send one request until it is answered or given up: what is tried again, how often, and when.

| kind of fault | examples | then |
|---|---|---|
| busy | 429 | all wait as long as the server asks, or slow down |
| away | no connection, reset, broken body, 502, 503, 504 | again; all wait for its return |
| late | no answer in time | again; as away if nobody else is answered, either |
| sick | 500, a malformed 200 | again |
| refused | other 4xx, redirects | the caller decides |
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from prefine.calls.hosts import Host, backoff_s, host_at
from prefine.calls.http import HttpReply, NoReply, origin_of, post_json, url_below
from prefine.calls.limits import Turn
from prefine.calls.protocol import Failure
from prefine.calls.retry_after import wait_s
from prefine.errors import BackendError
from prefine.models.openai.answers import (
    Malformed,
    ResponseChoice,
    counts_of,
    parsed,
    read_answer,
)
from prefine.models.openai.batches import BatchFiles, Line
from prefine.models.openai.refusals import ServerError, error_of, server_error
from prefine.models.openai.usage import TokenCounts, TokenPrices
from prefine.records import Usage

CHAT, TEXT = "/chat/completions", "/completions"
"""The addresses that answer conversations, and that continue texts and token ids."""

_FAILURES_IN_A_ROW = 20
_HOPE_S = 60.0
_CHARACTERS_PER_TOKEN = 4
_SICK = (408, 409, 425, 500)
_BUSY = 429
_REFUSED = (*range(300, 400), *range(400, 500), 501)

Kind = Literal["busy", "away", "late", "sick", "refused"]
_KINDS: Mapping[str, Kind] = {"timeout": "late", "too large": "sick"}


class Exchange(NamedTuple):
    """The choices that came back, and what the request cost."""

    choices: Sequence[ResponseChoice]
    usage: Usage


class Refused(NamedTuple):
    """The server does not want this request, and what was spent on it."""

    error: ServerError
    usage: Usage


class _Fault(NamedTuple):
    kind: Kind
    reason: str
    usage: Usage = Usage()
    error: ServerError | None = None
    wait_s: float | None = None
    reached: bool = True
    wants_pause: bool = True
    """Of the time a server needs to recover; there is none after a timeout or a malformed 200."""
    final: bool = False
    """Asking again would bring the same."""


@dataclass
class _History:
    """The failed tries of one request; they are forgotten when a server was away."""

    tries: int = 0
    began: float = 0.0
    refused_at: float | None = None

    def count(self) -> None:
        if self.tries == 0:
            self.began = time.monotonic()
        self.tries += 1


@dataclass(eq=False, kw_only=True)
class Requests:
    """Chat requests to one URL.

    Args:
        base_url: Up to and including `/v1`.
        headers: Gives the headers with the key when they are needed.
        timeout_s: For one attempt, as a whole.
        max_retries: Attempts after the first.
        patience_s: How long to wait for a server that is away or refuses all.
        requests_per_minute: At most, of all models at this host.
        tokens_per_minute: At most, of all models at this host.
        prices: For the cost; None counts tokens only.
        note: Called with remarks for the user.
        files: Takes the requests that go in batch files; None if none do.
        path: Of the requests, below `base_url`.
    """

    base_url: str
    headers: Callable[[], Mapping[str, str]]
    timeout_s: float
    max_retries: int
    patience_s: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    prices: TokenPrices | None
    note: Callable[[str], None]
    files: BatchFiles | None = None
    path: str = CHAT

    def __post_init__(self) -> None:
        self._url = url_below(self.base_url, self.path)
        self._unclaimed = Usage()  # of probes, until the next failure takes it
        self._answered = self._completion_tokens = 0

    async def send(
        self, body: Mapping[str, Any], probe: Mapping[str, Any]
    ) -> Exchange | Refused | Failure:
        """Send a request, again and again if need be.

        Args:
            body: The request.
            probe: A harmless one, sent to find out whether the server or `body` is at fault.

        Raises:
            BackendError: The server will not answer any request.
        """
        host = self._host()
        data = json.dumps(body).encode()
        prompt_tokens = len(data) // _CHARACTERS_PER_TOKEN
        most = (body.get("max_tokens") or body.get("max_completion_tokens") or 0) * (
            body.get("n") or 1
        )
        history, spent = _History(), Usage()
        while True:
            await host.until_present()
            turn = await host.limits.turn(prompt_tokens, most)
            outcome = await self._attempt(data)
            if isinstance(outcome, Exchange):
                used = outcome.usage
                self._answered += 1
                self._completion_tokens += used.completion_tokens
                host.served()
                host.limits.answered(turn, used.prompt_tokens, used.completion_tokens)
                return outcome if history.tries == 0 else outcome._replace(usage=spent + used)
            spent += outcome.usage
            if error := outcome.error:
                self._raise_if_final(error, asks_to_wait=outcome.wait_s is not None)
            if outcome.kind == "refused":
                assert outcome.error is not None
                host.answered()
                return Refused(outcome.error, spent)
            history.count()
            if not await self._again(host, outcome, history, turn, probe):
                return Failure(outcome.reason, spent + self._claimed())

    async def send_in_batch(
        self, body: Mapping[str, Any], line: Line
    ) -> Exchange | Refused | Failure:
        """Send a request in a batch file, and again in a later one if need be.

        What an earlier run was told of it is used if it is an answer, and else not counted.

        Raises:
            BackendError: The server will not answer any request.
        """
        assert self.files is not None, "checked by the caller"
        data = json.dumps(body).encode()
        tries, spent = 0, Usage()
        while True:
            answer = await self.files.answer(line.next(), data)
            outcome: Exchange | _Fault = _Fault("late", answer.reason)
            if answer.reply is not None:
                outcome = self._outcome(answer.reply, batched=True)
            if isinstance(outcome, Exchange):
                return outcome._replace(usage=spent + outcome.usage)
            error = outcome.error
            if answer.earlier and (error is None or error.wont_mend(asks_to_wait=False)):
                continue
            if outcome.kind == "refused" and error is not None:
                self._raise_if_final(error, asks_to_wait=False)
                return Refused(error, spent + outcome.usage)
            if answer.earlier:
                continue
            spent += outcome.usage
            tries += 1
            if tries > self.max_retries or outcome.final:
                return Failure(outcome.reason, spent)

    async def give_up(self, refused: Refused, probe: Mapping[str, Any]) -> Failure:
        """Return the failure of a request that the server refuses.

        Raises:
            BackendError: It refuses every request.
        """
        error = refused.error
        self._raise_if_final(error, asks_to_wait=False, model=probe.get("model"))
        if error.status != 400:
            await self._count_failure(self._host(), error.reason, probe, refused=True)
        return Failure(error.reason, refused.usage + self._claimed())

    async def _again(
        self,
        host: Host,
        fault: _Fault,
        history: _History,
        turn: Turn,
        probe: Mapping[str, Any],
    ) -> bool:
        """Wait as the fault demands; False if the request is given up."""
        exhausted = history.tries > self.max_retries
        pause = backoff_s(history.tries)
        if fault.kind == "busy":
            host.refused(turn.at, fault.wait_s, before=history.refused_at)
            history.refused_at = turn.at
            return await self._again_when_free(host, fault, history, pause)
        host.faulted(reached=fault.reached)
        if fault.wait_s:
            host.limits.pause(fault.wait_s)
            pause = 0.0
        # A server that has served before and is silent to everybody may come back.
        gone = fault.kind == "away" or (fault.kind == "late" and host.served_at is not None)
        if gone and (exhausted or host.seems_away):
            if exhausted and not host.reached:
                raise BackendError(
                    f"{self.base_url}: {fault.reason}; start the server, or mend base_url"
                )
            if (
                host.reached
                and not host.answered_since(history.began)
                and await host.recover(self._probe(probe), self.patience_s, fault.reason)
            ):
                self.note("the server was away for a while, and the run waited for it")
                history.tries = 0
                return True
        if exhausted or fault.final:
            await self._count_failure(host, fault.reason, probe, refused=False)
            return False
        if not fault.wants_pause:
            pause = 0.0
        await asyncio.sleep(pause)
        return True

    async def _again_when_free(
        self, host: Host, fault: _Fault, history: _History, pause: float
    ) -> bool:
        """Wait for one's turn after a 429, which counts only if others are served meanwhile."""
        if fault.wait_s is not None and fault.wait_s > self.patience_s:
            raise BackendError(
                f"{self.base_url}: {fault.reason}; it asks to wait {fault.wait_s:.0f} s, which is "
                "longer than patience_s: run the same command later, or raise patience_s"
            )
        now = time.monotonic()
        tried_for = self.timeout_s * self.max_retries
        if (
            history.tries > self.max_retries
            and now - history.began >= tried_for
            and (host.served_since(history.began) or self.max_retries == 0)
        ):
            return False
        patience_s = self.patience_s
        if host.served_at is None and not host.asks_to_wait:
            # Nothing says that it will ever serve anybody.
            patience_s = min(patience_s, max(_HOPE_S, tried_for))
        if host.refusing_since is not None and now - host.refusing_since >= patience_s:
            raise BackendError(
                f"{self.base_url}: all requests are refused for {patience_s:g} s "
                f"({fault.reason}); run the same command later, or raise patience_s"
            )
        await asyncio.sleep(0.0 if fault.wait_s else pause)
        return True

    async def _count_failure(
        self, host: Host, reason: str, probe: Mapping[str, Any], *, refused: bool
    ) -> None:
        """Count a request as given up; after several in a row, look at the server.

        Raises:
            BackendError: It answers no request at all.
        """
        host.failed_in_a_row += 1
        limit = 1 if refused and host.served_at is None else _FAILURES_IN_A_ROW
        if host.failed_in_a_row < limit:
            return
        if not refused and host.served_at is not None:
            await host.recover(self._probe(probe), self.patience_s, reason)
            host.failed_in_a_row = 0
            return
        async with host.judging:
            count = host.failed_in_a_row
            if count < limit:
                return  # somebody was served meanwhile
            if await self._is_served(probe):
                host.failed_in_a_row = 0
                return
        if refused:
            raise BackendError(
                f"{self.base_url}: the server refuses every request; look at base_url, the key, "
                f"the model's name and extra_body ({reason})"
            )
        raise BackendError(
            f"{self.base_url}: {count} requests in a row failed, the last one with: {reason}; "
            "mend the server or the settings"
        )

    def _probe(self, body: Mapping[str, Any]) -> Callable[[], Awaitable[bool]]:
        async def is_there() -> bool:
            outcome = await self._attempt(json.dumps(body).encode())
            self._unclaimed += outcome.usage
            return isinstance(outcome, Exchange) or outcome.kind in ("busy", "refused")

        return is_there

    async def _is_served(self, body: Mapping[str, Any]) -> bool:
        outcome = await self._attempt(json.dumps(body).encode())
        self._unclaimed += outcome.usage
        return isinstance(outcome, Exchange) or outcome.kind == "busy"

    def _claimed(self) -> Usage:
        usage, self._unclaimed = self._unclaimed, Usage()
        return usage

    def _raise_if_final(
        self, error: ServerError, *, asks_to_wait: bool, model: str | None = None
    ) -> None:
        """Raise if the error will not pass; a 400 or 404 only with `model`, once it is looked at.

        Raises:
            BackendError: With the server's own words.
        """
        if error.status in (400, 404) and model is None:
            return
        if what := error.wont_mend(asks_to_wait=asks_to_wait):
            raise BackendError(
                f"{self.base_url}: {what.format(model=model)} (HTTP {error.status}: {error.words})"
            )

    async def _attempt(self, data: bytes) -> "Exchange | _Fault":
        """Send a body once."""
        try:
            reply = await post_json(self._url, data, self.headers(), timeout_s=self.timeout_s)
        except NoReply as error:
            return _Fault(
                _KINDS.get(error.kind, "away"),
                str(error),
                self._unanswered(error, data),
                reached=error.kind != "unreachable",
                wants_pause=error.kind != "timeout",
                final=error.kind == "too large",
            )
        return self._outcome(reply)

    def _outcome(self, reply: HttpReply, *, batched: bool = False) -> "Exchange | _Fault":
        """Read a whole reply."""
        if reply.status != 200:
            return self._fault(server_error(reply.status, reply.body), reply, Usage())
        value: Any = None
        try:
            value = parsed(reply.body)
            answer = read_answer(value)
        except Malformed as error:
            cost = self._usage(counts_of(value), batched)
            return _Fault("sick", str(error), cost, wants_pause=False)
        usage = self._usage(answer.counts, batched)
        if answer.error is not None:
            return self._fault(error_of(answer.error, reply.status), reply, usage)
        if answer.counts is None or not answer.counts.complete:
            self.note("the server does not say how many tokens it used; they count as 0")
        if not answer.choices:
            return _Fault("sick", "the server sent no choice", usage, wants_pause=False)
        return Exchange(answer.choices, usage)

    def _fault(self, error: ServerError, reply: HttpReply, usage: Usage) -> _Fault:
        status = error.status
        wait = wait_s(reply.headers, error.text, now=time.time())
        if 300 <= status < 400:
            to = origin_of(reply.headers.get("location", ""))
            words = f"a redirect to {to if '//' in to[:-1] else 'another path'}, not followed"
            error = error._replace(words=words)
        kind: Kind = "away"
        if status == _BUSY:
            kind = "busy"
        elif status in _SICK:
            kind = "sick"
        elif status in _REFUSED:
            kind = "refused"
        return _Fault(kind, error.reason, usage, error, wait)

    def _usage(self, counts: TokenCounts | None, batched: bool) -> Usage:
        if counts is None:
            return Usage(calls=1)
        cost = 0.0
        if self.prices is not None:
            prices = self.prices.in_batches if batched else self.prices
            cost = prices.cost(counts.prompt, counts.completion, counts.cached)
        return Usage(
            calls=1, prompt_tokens=counts.prompt, completion_tokens=counts.completion, cost=cost
        )

    def _unanswered(self, error: NoReply, data: bytes) -> Usage:
        """The usage of a request without an answer; one that came too late was billed, perhaps."""
        if error.kind == "unreachable":
            return Usage()
        if error.kind != "timeout" or self.prices is None:
            return Usage(calls=1)
        self.note("answers that came too late are priced as the others were on average")
        prompt = len(data) // _CHARACTERS_PER_TOKEN
        completion = self._completion_tokens // max(1, self._answered)
        return self._usage(TokenCounts(prompt, completion, 0, complete=False), batched=False)

    def _host(self) -> Host:
        host = host_at(origin_of(self.base_url))
        host.limits.restrict(self.requests_per_minute, self.tokens_per_minute)
        return host
