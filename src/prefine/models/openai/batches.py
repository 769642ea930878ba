"""OpenAI's batch files: requests are gathered, handed over in files, and read when they are done.

Each request is a line with a name that is the same in every run. Before a file is handed over, the
journal notes its lines under a token, and the token goes with the batch. So a batch is found again
after a kill at any moment, and no request is handed over twice. What became of a line in an earlier
run is told as `earlier`, and a line that came to nothing has another name the next time.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import FormData

from prefine.calls.hosts import backoff_s
from prefine.calls.http import HttpReply, NoReply, read_lines, send, url_below
from prefine.calls.protocol import Submission, SubmissionLog
from prefine.calls.retry_after import wait_s
from prefine.errors import BackendError
from prefine.models.openai.refusals import server_error
from prefine.records import content_hash

_QUIET_S = 1.0
"""A batch is handed over when no further request has come for so long."""
_MOST_LINES, _MOST_BYTES = 50_000, 100 * 2**20
_FIRST_POLL_S, _LONGEST_POLL_S = 0.2, 30.0
_SLOWEST_UPLOAD = 2**18  # bytes/s
_ENDED = ("completed", "failed", "expired", "cancelled")
_OF_THE_BATCH = ("batch_expired", "batch_cancelled")
"""Errors of lines that say no more than the status of the batch does."""
_PASSING = (408, 409, 425, 429, *range(500, 600))
_TOKEN = "prefine"
"""The key of the token in a batch's metadata."""


class LineAnswer(NamedTuple):
    """The reply to a line; without one, the reason. `earlier` is True for batches of other runs."""

    reply: HttpReply | None
    reason: str
    earlier: bool


@dataclass
class Line:
    """The names of one request: another one each time that it is sent."""

    key: str
    times: int = 0

    def next(self) -> str:
        """Return the name under which the request is sent now."""
        self.times += 1
        return content_hash("line", self.key, self.times)


@dataclass(eq=False, kw_only=True)
class BatchFiles:
    """Hands requests over in batch files.

    Args:
        base_url: Up to and including `/v1`.
        headers: Gives the headers with the key.
        timeout_s: For one request about a batch, and for each line of a file.
        patience_s: How long to wait for a server that is away.
    """

    base_url: str
    headers: Callable[[], Mapping[str, str]]
    timeout_s: float
    patience_s: float
    _log: SubmissionLog = field(init=False)
    _gathered: dict[str, bytes] = field(default_factory=dict, init=False)
    _waiting: dict[str, "asyncio.Future[LineAnswer]"] = field(default_factory=dict, init=False)
    _gathering: bool = field(default=False, init=False)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set, init=False)
    _tokens: set[str] = field(default_factory=set, init=False)
    """Of the batches that this process has handed over."""

    def resume_from(self, log: SubmissionLog) -> None:
        """Note batches here, and look there for those of earlier runs."""
        self._log = log

    def holds(self, line: Line) -> bool:
        """True if the request was handed over before."""
        return bool(self._log.submissions([Line(line.key).next()]))

    async def answer(self, name: str, body: bytes) -> LineAnswer:
        """Return the answer to a line once its batch is done.

        Raises:
            BackendError: The server refuses batches, or the batch was cancelled.
        """
        if (answer := self._waiting.get(name)) is None:
            answer = self._waiting[name] = asyncio.get_running_loop().create_future()
            self._gathered[name] = body
            if not self._gathering:
                self._gathering = True
                self._start(self._gather())
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Leave all batches to the server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._gathered, self._waiting, self._gathering = {}, {}, False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._told(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - whoever waits for an answer raises it
            for answer in self._waiting.values():
                answer.set_exception(error)
            self._waiting.clear()

    async def _gather(self) -> None:
        """Wait until all who ask have asked; then look for what was handed over before."""
        count = 0
        while len(self._gathered) > count:
            count = len(self._gathered)
            await asyncio.sleep(_QUIET_S)
        bodies, self._gathered, self._gathering = self._gathered, {}, False
        earlier: dict[Submission, list[str]] = {}
        for name, submission in self._log.submissions(bodies).items():
            earlier.setdefault(submission, []).append(name)
            del bodies[name]
        for submission, names in earlier.items():
            self._start(self._find_again(submission, names))
        for part in _files(bodies):
            self._start(self._hand_over(part))

    async def _hand_over(self, bodies: Mapping[str, bytes]) -> None:
        token = secrets.token_hex(8)
        self._tokens.add(token)
        await self._log.submitted(Submission(token, None), bodies)
        lines = (
            b'{"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions", "body": %s}\n'
            % (name.encode(), body)
            for name, body in bodies.items()
        )
        file = await self._upload(b"".join(lines))
        batch = await self._create(str(file.get("id")), token)
        await self._log.submitted(Submission(token, str(batch["id"])), ())
        if await self._read(str(batch["id"]), list(bodies), token):
            # One half after the other.
            names = list(bodies)
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                await self._hand_over({name: bodies[name] for name in half})

    async def _find_again(self, submission: Submission, names: list[str]) -> None:
        """Read a batch that was handed over by an earlier run, or perhaps just not."""
        id_ = submission.id
        if id_ is None and (batch := await self._look_for(submission.token)) is not None:
            id_ = str(batch["id"])
        if id_ is not None:
            await self._read(id_, names, submission.token)
        self._tell_rest(names, "the batch is not at the server any more", submission.token)

    async def _read(self, id_: str, names: list[str], token: str) -> bool:
        """Wait for the end of a batch and tell its answers; True if it was refused as too large.

        Raises:
            BackendError: It was refused or cancelled while we waited.
        """
        pause, lived = _FIRST_POLL_S, token in self._tokens
        while True:
            batch = await self._ask("GET", f"/batches/{id_}")
            if batch is None or batch.get("status") in _ENDED:
                break
            lived = True
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_POLL_S)
        found = batch or {"status": "deleted"}
        for which in ("output_file_id", "error_file_id"):
            if file := found.get(which):
                await self._read_file(str(file), names, token)
        status, errors = found["status"], json.dumps(found.get("errors"))
        missing = not self._waiting.keys().isdisjoint(names)
        if lived and missing and status in ("failed", "cancelled"):
            if "token_limit_exceeded" in errors and len(names) > 1:
                return True
            words = server_error(400, errors.encode()).words
            raise BackendError(
                f"{self.base_url}: batch {id_} was {status} at the server"
                f"{f' ({words})' if words else ''}; mend the cause, and run the same command again "
                "for what is missing"
            )
        self._tell_rest(names, f"the batch is {status} and has no answer to the request", token)
        return False

    async def _read_file(self, file: str, names: list[str], token: str) -> None:
        wanted = set(names)

        def take(raw: bytes) -> None:
            name, reply, reason = _line(raw)
            if name in wanted:
                self._tell(name, LineAnswer(reply, reason, token not in self._tokens))

        async def read(timeout_s: float) -> HttpReply:
            url = url_below(self.base_url, f"/files/{file}/content")
            return await read_lines(url, self.headers(), take, timeout_s=timeout_s)

        await self._until_answered(read)

    def _tell(self, name: str, answer: LineAnswer) -> None:
        if (waiting := self._waiting.pop(name, None)) is not None:
            waiting.set_result(answer)

    def _tell_rest(self, names: list[str], reason: str, token: str) -> None:
        for name in names:
            self._tell(name, LineAnswer(None, reason, token not in self._tokens))

    # --- requests

    async def _upload(self, lines: bytes) -> dict[str, Any]:
        def form() -> FormData:
            parts = FormData({"purpose": "batch"})
            parts.add_field("file", lines, filename="prefine.jsonl")
            return parts

        async def upload(timeout_s: float) -> HttpReply:
            longest = timeout_s + len(lines) / _SLOWEST_UPLOAD
            url = url_below(self.base_url, "/files")
            return await send("POST", url, form(), self.headers(), timeout_s=longest)

        return self._supported(await self._until_answered(upload))

    async def _create(self, file: str, token: str) -> dict[str, Any]:
        """Create a batch; where nobody knows whether it was created, look for it first."""
        body = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {_TOKEN: token},
        }

        async def there() -> dict[str, Any] | None:
            return await self._look_for(token)

        return self._supported(await self._ask("POST", "/batches", body, already=there))

    def _supported(self, found: dict[str, Any] | None) -> dict[str, Any]:
        if found is None or "id" not in found:
            raise BackendError(
                f"{self.base_url}: this server takes no batch files; leave out `calls: batch`"
            )
        return found

    async def _look_for(self, token: str) -> dict[str, Any] | None:
        """The batch with this token, newest first."""
        after = ""
        while True:
            page = await self._ask("GET", f"/batches?limit=100{after}")
            batches = [] if page is None else page.get("data") or []
            for batch in batches:
                if (batch.get("metadata") or {}).get(_TOKEN) == token:
                    return dict(batch)
            if not batches or page is None or not page.get("has_more"):
                return None
            after = f"&after={batches[-1]['id']}"

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        already: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
    ) -> dict[str, Any] | None:
        async def ask(timeout_s: float) -> HttpReply:
            data = None if body is None else json.dumps(body).encode()
            headers = {**({"Content-Type": "application/json"} if body else {}), **self.headers()}
            url = url_below(self.base_url, path)
            return await send(method, url, data, headers, timeout_s=timeout_s)

        return await self._until_answered(ask, already)

    async def _until_answered(
        self,
        ask: Callable[[float], Awaitable[HttpReply]],
        already: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
    ) -> dict[str, Any] | None:
        """Ask until there is an answer: its JSON, empty for a file, None if there is no such thing.

        Raises:
            BackendError: The server refuses, or is away for too long.
        """
        began, tries = time.monotonic(), 0
        while True:
            wait = None
            try:
                reply = await ask(self.timeout_s)
                if reply.status == 200:
                    return dict(json.loads(reply.body or b"{}"))
                if reply.status in (404, 405):
                    return None
                error = server_error(reply.status, reply.body)
                reason = error.reason
                wait = wait_s(reply.headers, error.text, now=time.time())
                lasts = error.wont_mend(asks_to_wait=wait is not None) is not None
                final = lasts or reply.status not in _PASSING
            except NoReply as no_reply:
                reason, final = str(no_reply), False
            except (ValueError, TypeError):
                reason, final = "the server's answer is no JSON object", False
            tries += 1
            pause = wait or backoff_s(tries)
            if final or time.monotonic() - began + pause > self.patience_s:
                raise BackendError(f"{self.base_url}: batch files: {reason}")
            await asyncio.sleep(pause)
            if already is not None and (found := await already()) is not None:
                return found


def _files(bodies: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Divide lines among files of a size that servers take."""
    part: dict[str, bytes] = {}
    size = 0
    for name, body in bodies.items():
        if part and (len(part) == _MOST_LINES or size + len(body) > _MOST_BYTES):
            yield part
            part, size = {}, 0
        part[name] = body
        size += len(body)
    if part:
        yield part


def _line(raw: bytes) -> tuple[str | None, HttpReply | None, str]:
    """Read a line of an output or error file: its name, and the reply or the reason for none."""
    try:
        value = json.loads(raw)
        name, response, error = value["custom_id"], value.get("response"), value.get("error")
        if isinstance(response, Mapping) and isinstance(response.get("status_code"), int):
            body = json.dumps(response.get("body")).encode()
            return name, HttpReply(response["status_code"], {}, body), ""
        words = error
        if isinstance(error, Mapping):
            words = error.get("message") or error.get("code")
            if error.get("code") in _OF_THE_BATCH:
                name = None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, None, ""
    return name, None, f"the batch brought no answer: {' '.join(str(words).split())[:200]}"
