"""A server in the manners of an engine, that can misbehave; run as a program of its own.

It continues texts and token ids at `/v1/completions`, answers `/v1/chat/completions`, and writes a
line of JSON for its start and for every request into the log. Its answers are a pure function of
prompt and seed, so that every server gives the same. Where token ids are asked for, these are its
answer, and its text is another one.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

WORDS = ["the", "a", "tea", "rain", "cat", "sea", "is", "was", "quiet", "silver", "warm", "."]
_ONE_AT_A_TIME = Lock()


def command(log: Path, *options: str) -> str:
    """The command line of engine `command` for a stand-in with this log."""
    words = [sys.executable, __file__, "--path", "{path}", "--port", "{port}", "--log", str(log)]
    return " ".join([*words, *options])


def logged(log: Path, kind: str) -> list[dict[str, Any]]:
    """The starts, or the requests, of all stand-ins with this log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def running(mark: object) -> list[int]:
    """The processes whose command lines have this text, such as the path of a log."""
    return [pid for pid, words in _command_lines() if str(mark) in words]


def _command_lines() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            yield int(folder.name), words


def gone(mark: object, within_s: float) -> bool:
    """True once no process has this text in its command line; False if one has it for so long."""
    end = time.monotonic() + within_s
    while running(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def score(prompt: Any, completion: Any) -> float:
    """A judge of lengths, who works only while no server of the log in STAND_IN_LOG is there."""
    assert not running(os.environ["STAND_IN_LOG"]), "a server outlives its stage"
    return float(len(completion.text))


def says(prompt: object, seed: object, words: int = 8) -> str:
    """The answer to a prompt."""
    digest = hashlib.sha256(json.dumps([prompt, seed]).encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:words])


def token_ids(body: dict[str, Any]) -> list[int]:
    """The answer in token ids: some of the prompt's, and the first token that ends an answer."""
    ids = body["prompt"]
    turned = 1 + body["seed"] % (len(ids) - 1)
    return [*(ids[turned:] + ids[:turned])[: body["max_tokens"] - 1], body["stop_token_ids"][0]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    settings: argparse.Namespace
    asked = 0

    def do_GET(self) -> None:
        if self.settings.never_healthy:
            return self._reply(503, {"status": "loading"})
        if self.path == "/health" and not self.settings.no_health:
            return self._reply(200, {"status": "ok"})
        if self.path == "/v1/models":
            return self._reply(200, {"data": []})
        return self._reply(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with _ONE_AT_A_TIME:
            _Handler.asked += 1
            asked = _Handler.asked
            key = self.headers.get("Authorization", "")
            write(self.settings, "request", body=body, key=key, at=self.path)
        settings = self.settings
        if asked in (settings.dies_after, settings.hangs_after) and _is_first(settings.once):
            if asked == settings.dies_after:
                os._exit(3)
            os.kill(os.getpid(), signal.SIGSTOP)
        if settings.api_key and key != f"Bearer {settings.api_key}":
            return self._reply(401, {"error": "wrong key"})
        if settings.garbage:
            self.wfile.write(b"\x00\xff garbage \x1b[31m" * 100)
            self.close_connection = True
            return None
        time.sleep(settings.seconds)
        question = body.get("prompt", body.get("messages"))
        text = says(question, body.get("seed"))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "text": text}
        if body.get("return_token_ids"):
            choice |= {"token_ids": token_ids(body), "text": "as the server decodes it"}
        if first := body.get("logprobs"):
            top = {"A": -0.25, "B": -1.5}
            choice["logprobs"] = {"tokens": ["A"], "token_logprobs": [-0.25], "top_logprobs": [top]}
            assert first == 20
        if "messages" in body:
            choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
        return self._reply(
            200,
            {
                "choices": [choice],
                "usage": {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11},
            },
        )

    def _reply(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        print(format % args, flush=True)


def _is_first(once: str | None) -> bool:
    """Claim the file: of servers that come to it in the same moment, one alone has made it."""
    if not once:
        return True
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def write(settings: argparse.Namespace, kind: str, **values: Any) -> None:
    """Write a line into the log."""
    line = json.dumps({"kind": kind, "pid": os.getpid(), "port": settings.port, **values})
    with open(settings.log, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def main() -> None:
    """Serve, or misbehave."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--log", help="else STAND_IN_LOG, and flags of real engines are taken")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--seconds", type=float, default=0.0, help="of an answer")
    parser.add_argument("--dies-at-start", action="store_true")
    parser.add_argument("--never-healthy", action="store_true")
    parser.add_argument("--no-health", action="store_true", help="there is no /health")
    parser.add_argument("--garbage", action="store_true", help="answers and output are none")
    parser.add_argument("--dies-after", type=int, default=0, help="requests")
    parser.add_argument("--hangs-after", type=int, default=0, help="requests")
    parser.add_argument("--once", help="a file: only the first of all servers dies or hangs")
    parser.add_argument("--ignores-sigterm", action="store_true")
    parser.add_argument(
        "--leaves-group", action="store_true", help="a child in a session of its own"
    )
    words = sys.argv[1:]
    if words[:1] == ["serve"]:  # as vLLM has it
        words = ["--path", *words[1:]]
    words = ["--path" if word == "--model-path" else word for word in words]  # SGLang
    settings, others = parser.parse_known_args(words)
    if others and settings.log:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    settings.log = settings.log or os.environ["STAND_IN_LOG"]
    settings.api_key = settings.api_key or os.environ.get("VLLM_API_KEY", "")
    write(
        settings,
        "start",
        path=settings.path,
        words=words,
        gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    if settings.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if settings.leaves_group:
        code = "import time; time.sleep(600)"
        for new_session in (False, True):
            subprocess.Popen(
                [sys.executable, "-c", code, settings.log], start_new_session=new_session
            )
    if settings.garbage:
        sys.stdout.buffer.write(b"\x00\xff\xfe \x1b[2J garbage\n" * 2000)
        sys.stdout.flush()
    if settings.dies_at_start:
        print("CUDA out of memory: tried to allocate 80 GiB", flush=True)
        sys.exit(1)
    _Handler.settings = settings
    ThreadingHTTPServer(("127.0.0.1", settings.port), _Handler).serve_forever()


if __name__ == "__main__":
    main()
