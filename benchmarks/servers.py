"""Requests to servers: their cost, limiters, outages, faults and providers, against `mock-server`.

    python benchmarks/servers.py throughput        calls per second and processor time of a call
    python benchmarks/servers.py limiter           a limit of 30/s, with each way of saying wait
    python benchmarks/servers.py outage            60 s of 503, of resets, of nobody listening
    python benchmarks/servers.py faults            each fault in one of 38 prompts
    python benchmarks/servers.py providers         `sample` and `rank` at each provider's profile

The server is a process of its own on this machine.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from line import Line
from prefine.calls.engine import CallEngine
from prefine.calls.http import close_connections, post_json
from prefine.calls.protocol import Call
from prefine.config.sections import Decoding
from prefine.models.mock_server.faults import FAULTS
from prefine.models.mock_server.profiles import PROFILES
from prefine.models.openai.backend import OpenAIModel
from prefine.models.protocol import SampleRequest
from prefine.records import Completion, Message, Prompt
from prefine.run.journal import Journal

SLOTS = 128
CALLS = 10_000
LIMIT = 30.0
LIMITED_PROMPTS = 3_000
OUTAGE_S = 60.0
FAULTY_PROMPTS, FAULTY_SHARE, DEADLINE_S, TRIES = 400, 1 / 38, 5.0, 3
STATUSES = ("400", "403", "404", "408", "409", "413", "422", "429", "500", "502", "503", "529")


# --- processes


@contextmanager
def served(port: int, *options: str) -> Iterator[str]:
    """A mock server in a process of its own; yields its URL without /v1."""
    command = [sys.executable, "-m", "prefine", "mock-server", "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            time.sleep(0.05)
            try:
                stats(url)
                break
            except OSError:
                continue
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stats(url: str) -> dict[str, Any]:
    """The counts of a mock server."""
    with urllib.request.urlopen(f"{url}/stats", timeout=5) as response:
        found: dict[str, Any] = json.load(response)
    return found


class Run:
    """A run folder with prompts, at a server."""

    def __init__(self, folder: Path, url: str, prompts: int, **model: Any) -> None:
        self.folder = folder / "run"
        self._config = folder / "run.yaml"
        rows = [json.dumps({"prompt": f"Question {i}: what is {i}?"}) for i in range(prompts)]
        (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        asked = {"name": "openai", "model": "mock", "base_url": f"{url}/v1", **model}
        config = {
            "run_dir": str(self.folder),
            "policy": {"name": "playground"},
            "prompts": {"name": "file", "path": str(folder / "prompts.jsonl")},
            "sample": {
                "model": asked,
                "completions_per_prompt": 2,
                "max_new_tokens": 32,
                "max_failed_fraction": 0.1,
            },
            "rank": {"judge": {"name": "pairwise", "model": asked}},
        }
        self._config.write_text(json.dumps(config), encoding="utf-8")

    def stage(self, name: str, timeout_s: float = 560) -> tuple[int, str]:
        """Run a stage; its exit code, and its last words."""
        done = subprocess.run(
            [sys.executable, "-m", "prefine", name, str(self._config)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=os.environ | {"COLUMNS": "200"},
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if line.startswith("prefine:")]
        return done.returncode, said[-1] if said else ""

    def manifest(self, stage: str) -> dict[str, Any]:
        """The manifest of a stage."""
        text = (self.folder / "manifest.json").read_text(encoding="utf-8")
        found: dict[str, Any] = json.loads(text)["stages"][stage]
        return found


# --- throughput


def throughput() -> list[Line]:
    """Calls per second in one process, and the processor time of a call, layer by layer."""
    with served(free_port()) as url, tempfile.TemporaryDirectory() as folder:
        bare = _timed(lambda: asyncio.run(_bare(url)))
        client = _timed(lambda: asyncio.run(_replies(url)))
        engine = _timed(lambda: _engine(url, Path(folder)))
    lines = []
    for what, (wall, cpu) in (
        ("request alone", bare),
        ("… with retries, limits and reading", client),
        ("… with engine and journal on disk", engine),
    ):
        rate = CALLS / wall
        goal = rate >= 1000 if what.startswith("… with engine") else None
        figure = f"{rate:7,.0f} calls/s, {cpu / CALLS * 1e3:.3f} ms of processor a call"
        lines.append(Line(what, figure, goal))
    return lines


def _timed(work: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _conversation(number: int) -> tuple[Message, ...]:
    return (Message(role="user", content=f"Question {number}: what is {number}?"),)


async def _slots(work: Any) -> None:
    """Do the calls, so many at a time as there are slots."""
    numbers = iter(range(CALLS))

    async def slot() -> None:
        for number in numbers:
            await work(number)

    await asyncio.gather(*(slot() for _ in range(SLOTS)))
    await close_connections()


async def _bare(url: str) -> None:
    async def one(number: int) -> None:
        body = {"model": "m", "messages": [_conversation(number)[0].chat()], "max_tokens": 32}
        data = json.dumps(body).encode()
        await post_json(f"{url}/v1/chat/completions", data, {}, timeout_s=60)

    await _slots(one)


async def _replies(url: str) -> None:
    model = OpenAIModel(model="m", base_url=f"{url}/v1", concurrency=SLOTS)

    async def one(number: int) -> None:
        await model.reply(
            _conversation(number), max_new_tokens=32, temperature=0, seed=0, first_token=False
        )

    await _slots(one)


def _engine(url: str, folder: Path) -> None:
    model = OpenAIModel(model="m", base_url=f"{url}/v1", concurrency=SLOTS)
    decoding = Decoding(max_new_tokens=32)
    calls = [
        Call(f"key {number}", SampleRequest(Prompt.from_text(f"Question {number}?"), 0))
        for number in range(CALLS)
    ]
    with closing(Journal(folder / "journal" / "part-00000.sqlite")) as journal:
        engine = CallEngine(journal)
        found = engine.run(
            engine.ask(
                calls,
                Completion,
                lambda wanted: model.sample(calls, wanted, decoding),
                backend=model,
            )
        )
    assert len(found) == CALLS and not engine.failures


# --- limiter


def limiter() -> list[Line]:
    """A limiter of 30/s: requests after the first 10 s for each that was needed then."""
    kinds = ("none", "seconds", "date", "ms", "words")
    with ThreadPoolExecutor(len(kinds)) as pool:
        return list(pool.map(_limited, kinds))


def _limited(kind: str) -> Line:
    with (
        served(free_port(), "--limit", str(LIMIT), "--retry-after", kind) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        run = Run(Path(folder), url, LIMITED_PROMPTS, concurrency=SLOTS)
        began = time.monotonic()
        code, said = run.stage("sample")
        seconds = time.monotonic() - began
        counted = stats(url)
    first = next(second for second, sent in enumerate(counted["per_second"]) if sent)
    sent = sum(counted["per_second"][first + 10 :])
    needed = sum(counted["served_per_second"][first + 10 :])
    ratio = sent / max(needed, 1)
    figure = (
        f"exit {code}, {seconds:5.0f} s, {counted['requests']:,} requests for {LIMITED_PROMPTS:,}, "
        f"after 10 s {sent:,} for {needed:,}: {ratio:.3f} {said}"
    )
    return Line(f"limit {LIMIT:g}/s, wait said by {kind}", figure, code == 0 and ratio <= 1.15)


# --- outage


def outage() -> list[Line]:
    """60 s without the server in the middle of a run."""
    kinds = ("503", "reset", "refused")
    with ThreadPoolExecutor(len(kinds)) as pool:
        return list(pool.map(_without_server, kinds))


def _without_server(kind: str) -> Line:
    port, prompts = free_port(), 600
    model = {"concurrency": 32, "max_retries": 2, "timeout_s": 10}
    calm = ("--latency", "1")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        run = Run(Path(folder), f"http://127.0.0.1:{port}", prompts, **model)
        began = time.monotonic()
        if kind == "refused":
            with served(port, *calm) as url:
                ending = pool.submit(run.stage, "sample")
                while stats(url)["requests"] < prompts // 4:
                    time.sleep(0.1)
            time.sleep(OUTAGE_S)
            with served(port, *calm) as url:
                code, said = ending.result()
                counted = stats(url)
        else:
            when = f"15:{15 + OUTAGE_S:g}"
            with served(port, *calm, "--fault", kind, "--outage", when) as url:
                code, said = run.stage("sample")
                counted = stats(url)
        seconds = time.monotonic() - began
        manifest = run.manifest("sample")
    refused = sum(count for name, count in counted["statuses"].items() if name != "200")
    figure = (
        f"exit {code}, {seconds:4.0f} s, {manifest['counts']['produced']:,} of {2 * prompts:,} "
        f"completions, {refused} requests failed {said}"
    )
    good = code == 0 and manifest["counts"]["produced"] == 2 * prompts
    return Line(f"{OUTAGE_S:g} s of {kind}", figure, good)


# --- faults


FATAL = ("quota", "unpaid", "no_model", "no_key")
"""Faults that no further request can mend: the command ends at once, with the server's words."""


def faults() -> Iterator[Line]:
    """Each fault in one of 38 prompts: the others are not lost, and nothing hangs."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(_faulty, (*STATUSES, *FAULTS))


def _faulty(fault: str) -> Line:
    options = ("--fault", fault, "--fault-share", str(FAULTY_SHARE))
    with served(free_port(), *options) as url, tempfile.TemporaryDirectory() as folder:
        model = {"concurrency": 32, "max_retries": TRIES - 1, "timeout_s": DEADLINE_S}
        run = Run(Path(folder), url, FAULTY_PROMPTS, **model)
        code, said = run.stage("sample")
        counted = stats(url)
        manifest = run.manifest("sample")
        failed = manifest["counts"]["failed"] if code == 0 else said
        # An answer that is lost is asked for again.
        lost = counted["answered"] - counted["contents_answered"]
    hang = counted["longest_s"]
    tries = counted["longest_with_tries_s"]
    longest = f"longest request {hang:.2f} s, with its tries {tries:.2f} s"
    figure = f"exit {code}, lost {lost}, {longest}, {failed}"
    ended_well = code == (4 if fault in FATAL else 0)
    goal = ended_well and lost == 0 and tries <= DEADLINE_S * TRIES + 0.5
    return Line(f"fault {fault}", figure, goal)


# --- providers


def providers() -> list[Line]:
    """`sample` and `rank` at each profile."""
    lines = []
    for name in PROFILES:
        with (
            served(free_port(), "--profile", name) as url,
            tempfile.TemporaryDirectory() as folder,
        ):
            run = Run(Path(folder), url, 12)
            codes = [run.stage(stage)[0] for stage in ("sample", "rank")]
            notes = {stage: run.manifest(stage)["notes"] for stage in ("sample", "rank")}
        told = [
            f"{stage}: {note.removeprefix('mock: ')}"
            for stage, found in notes.items()
            for note in found
            if note.startswith("mock: ")
        ]
        figure = f"exit {codes[0]}, {codes[1]}; {'; '.join(told) or 'no notes'}"
        once = len(set(told)) == len(told)
        lines.append(Line(f"provider {name}", figure, codes == [0, 0] and once))
    return lines


PARTS: dict[str, Callable[[], Iterable[Line]]] = {
    "throughput": throughput,
    "limiter": limiter,
    "outage": outage,
    "faults": faults,
    "providers": providers,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows of the parts that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", nargs="*", choices=PARTS, default=list(PARTS))
    for part in parser.parse_args(arguments).part:
        for line in PARTS[part]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
