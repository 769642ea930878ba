"""Two processes, started once for all tests that look at what they left."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two gloo processes; they meet in a file, so no port is opened."""
    # Here and not above: tests that need no processes need no torch for them.
    from loop_processes import stopped

    folder = tmp_path_factory.mktemp("two-processes")
    for name in ("one-then-two", "one-then-sharded"):
        stopped(folder / name)
    script = [sys.executable, str(Path(__file__).with_name("two_processes.py"))]
    started = [
        subprocess.Popen([*script, str(rank), str(folder / "meet"), str(folder)])
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return folder
