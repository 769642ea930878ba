"""Batch files at the mock server: uploads, batches, and what may become of them."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from prefine.records import content_hash

BATCH_FAULTS = (
    "batch_expired",
    "batch_cancelled",
    "batch_refused",
    "batch_lines_missing",
    "batch_file_slow",
)
"""Of the first batch only: the lines of the share are left over when it ends; it is refused as too
large; lines are in no file. Of all batches: output files come slowly."""

_SLOW_S = 0.02  # a line
_PAGE = 20

AnswerLine = Callable[[dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
"""From the body of a line to the status and the body of its reply."""


class BatchDesk:
    """The endpoints `files` and `batches`, in memory.

    Args:
        answer: Answers the body of a line.
        latency_s: From the creation of a batch to its end.
        fault: One of `BATCH_FAULTS`, or None.
        fault_share: The share of lines that the fault is about.
    """

    def __init__(
        self, answer: AnswerLine, *, latency_s: float, fault: str | None, fault_share: float
    ) -> None:
        self._answer = answer
        self._latency_s = latency_s
        self._fault = fault
        self._fault_share = fault_share
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self.lines: Counter[str] = Counter()
        """Counts how many times each line was handed over, by its custom_id."""

    @property
    def created(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the endpoints below /v1."""
        router.add_post("/v1/files", self._upload)
        router.add_get("/v1/files/{id}/content", self._content)
        router.add_post("/v1/batches", self._create)
        router.add_get("/v1/batches", self._list)
        router.add_get("/v1/batches/{id}", self._get)
        router.add_post("/v1/batches/{id}/cancel", self._cancel)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return _error(400, "'purpose' must be 'batch', and 'file' a file")
        content = file.file.read()
        id_ = self._keep(content)
        found = {"id": id_, "object": "file", "bytes": len(content), "filename": file.filename}
        return web.json_response({**found, "created_at": 0, "purpose": "batch"})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self._files.get(request.match_info["id"])
        if content is None:
            return _error(404, "No such File object")
        if self._fault != "batch_file_slow":
            return web.Response(body=content, content_type="application/octet-stream")
        response = web.StreamResponse()
        await response.prepare(request)
        for line in content.splitlines(keepends=True):
            await response.write(line)
            await asyncio.sleep(_SLOW_S)
        return response

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        content = self._files.get(asked.get("input_file_id"))
        if content is None:
            return _error(400, "Invalid 'input_file_id': no such file")
        lines = [json.loads(line) for line in content.splitlines()]
        self.lines.update(line["custom_id"] for line in lines)
        batch = {
            "id": f"batch_{len(self._batches) + 1}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "metadata": asked.get("metadata"),
            "created_at": 0,
            "status": "in_progress",
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        self._batches[batch["id"]] = batch
        work = asyncio.create_task(self._work(batch, lines))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        return web.json_response(batch)

    async def _work(self, batch: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        """Answer the lines of a batch, but for those that the fault is about."""
        await asyncio.sleep(self._latency_s)
        if batch["status"] != "in_progress":
            return
        fault = self._fault if batch["id"] == "batch_1" else None
        if fault == "batch_refused":
            data = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
            batch |= {"status": "failed", "errors": {"object": "list", "data": data}}
            return
        done, bad = list[bytes](), list[bytes]()
        end = {"batch_expired": "expired", "batch_cancelled": "cancelled"}.get(fault or "")
        for line in lines:
            draw = int(content_hash("line", line["custom_id"]), 16) / 16.0**16
            left = fault is not None and draw < self._fault_share
            if left and fault == "batch_lines_missing":
                continue
            if left and end is not None:
                error = {"code": f"batch_{end}", "message": "This request could not be executed"}
                bad.append(_result(line, None, error))
                continue
            status, body = await self._answer(line["body"])
            response = {"status_code": status, "request_id": "mock", "body": body}
            (done if status == 200 else bad).append(_result(line, response, None))
        batch["request_counts"] |= {"completed": len(done), "failed": len(bad)}
        for name, results in (("output_file_id", done), ("error_file_id", bad)):
            if results:
                batch[name] = self._keep(b"".join(results))
        batch["status"] = end or "completed"

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self._batches.values()))
        after = request.query.get("after")
        ids = [batch["id"] for batch in newest]
        start = ids.index(after) + 1 if after in ids else 0
        end = start + min(_PAGE, int(request.query.get("limit", _PAGE)))
        page = {"object": "list", "data": newest[start:end], "has_more": end < len(newest)}
        return web.json_response(page)

    async def _get(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        return _error(404, "No such batch") if batch is None else web.json_response(batch)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No such batch")
        if batch["status"] == "in_progress":
            batch["status"] = "cancelled"
        return web.json_response(batch)

    def _keep(self, content: bytes) -> str:
        id_ = f"file-{len(self._files) + 1}"
        self._files[id_] = content
        return id_


def _result(line: dict[str, Any], response: Any, error: Any) -> bytes:
    found = {"id": "mock", "custom_id": line["custom_id"], "response": response, "error": error}
    return json.dumps(found).encode() + b"\n"


def _error(status: int, words: str) -> web.Response:
    error = {"message": words, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)
