"""`prefine view`: its arguments, what it prints, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from command import prefine
from run_place import CONFIG
from view_place import small_run


def test_a_folder_that_is_not_there_and_a_port_that_is_taken(tmp_path: Path) -> None:
    found = prefine("view", str(tmp_path / "nothing"))
    assert found.code == CONFIG
    assert f"{tmp_path / 'nothing'}: no such folder; name run folders" in found.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = prefine("view", str(tmp_path), "--port", str(port))
    assert found.code == CONFIG
    assert f"--port {port}: Address already in use; choose another" in found.err


@pytest.mark.parametrize("ending", [signal.SIGINT, None])
def test_it_serves_loopback_alone_and_ends_when_told(
    tmp_path: Path, ending: signal.Signals | None
) -> None:
    small_run(tmp_path / "run", prompts=20)
    command = [sys.executable, "-m", "prefine", "view", str(tmp_path)]
    command += [] if ending else ["--stop-after", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        link = re.fullmatch(
            r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{32})\n", server.stdout.readline()
        )
        assert link is not None
        assert listens(server.pid) == {f"0100007F:{int(link[1]):04X}"}
        connection = HTTPConnection("127.0.0.1", int(link[1]))
        connection.request("GET", "/")
        assert connection.getresponse().status == 403
        connection.close()
        if ending:
            server.send_signal(ending)
        began = time.monotonic()
        assert server.wait(30) == 0
        assert time.monotonic() - began < 20
    assert not list(tmp_path.glob("*.notes.jsonl"))


def listens(pid: int) -> set[str]:
    """The addresses on which a process listens, as the kernel writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        found = re.match(r"socket:\[(\d+)\]", os.readlink(entry))
        if found:
            inodes.add(found[1])
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    lines += Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}
