"""`transformers serve` on loopback, offline: a real OpenAI-compatible server.

It is started once per session; a test that uses the fixture of conftest.py skips where it cannot
be. It serves every local folder that a request names as its model. `generation_config.json` decides
whether it samples: without `do_sample: true` it decodes greedily whatever `temperature` says, so
`sampling_folder` makes a copy that has it.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("fastapi", "uvicorn", "openai")
SKIP_REASON = "fastapi or uvicorn is not installed"
START_S = 120.0


def is_installed() -> bool:
    """Whether all that the server needs is there."""
    return all(importlib.util.find_spec(name) for name in NEEDED)


def sampling_folder(model: Path, folder: Path) -> Path:
    """A copy of a model folder with `do_sample` on, so that the server samples from it."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**settings, "do_sample": True}), encoding="utf-8")
    return folder


@contextmanager
def transformers_server(folder: Path, *options: str) -> Iterator[str]:
    """The base URL (with /v1) of a server that lives until the block ends; its cache and its
    log are in `folder`.
    """
    cache, log = folder / "hub", folder / "serve.log"
    cache.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "HF_HOME": str(folder),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }
    start = (
        "import sys; from transformers.cli.transformers import main; sys.argv[0] = "
        "'transformers'; sys.exit(main())"
    )
    place = ("--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", start, "serve", *place, *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | settings,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _stop(process)


def _wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(
                f"transformers serve ended with {process.returncode}:\n{_end_of(log)}"
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(
        f"transformers serve is not healthy after {START_S:.0f} s:\n{_end_of(log)}"
    )


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill the server's own session: nothing of it outlives the tests."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=5)
    except ProcessLookupError:
        process.wait(timeout=5)
