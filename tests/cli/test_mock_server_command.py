"""`prefine mock-server` as a process of its own, and what it refuses."""

import json
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from command import prefine
from mock_place import free_port


def test_it_serves_until_it_is_interrupted() -> None:
    port = free_port()
    command = [sys.executable, "-m", "prefine", "mock-server", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}/v1" in process.stderr.readline()
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as response:
                    assert json.load(response)["data"]
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("nobody answers")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 6


def test_it_lists_profiles_and_faults() -> None:
    listed = prefine("mock-server", "--list").out
    assert "gemini" in listed and "gzip_bomb" in listed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--profile", "nobody"], "'nobody'; it is one of plain"),
        (["--fault", "flood"], "'flood'; it is a status or one of"),
        (["--limit", "0"], "--limit: 0.0"),
        (["--outage", "3"], "--outage"),
        (["--retry-after", "soon"], "--retry-after: 'soon'"),
    ],
)
def test_what_it_cannot_serve_is_refused(options: list[str], says: str) -> None:
    result = prefine("mock-server", *options)
    assert result.code == 2
    assert says in result.err
