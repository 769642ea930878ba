"""Two processes, started once for all tests that look at what they left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two gloo processes; they meet in a file, so no port is opened."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # test files that run side by side share it
        folder = folder.parent
    folder = folder / "two-processes"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "finished").exists():
            folder.mkdir()
            _run(folder)
            (folder / "finished").touch()
    return folder


def _run(folder: Path) -> None:
    # Here and not above: tests that need no processes need no torch for them.
    from loop_processes import stopped

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
