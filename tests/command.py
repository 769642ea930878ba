"""Runs the `prefine` command: in this process, which is fast, or in its own, which can be
killed and starved.
"""

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from prefine.cli import app

# A process of its own is forked off a server that has loaded the libraries and computed nothing:
# loading them anew takes longer than what most tests let the command do.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch", "transformers.models.llama.modeling_llama", "command"])


class Result(NamedTuple):
    """What a run of the command gave."""

    code: int
    out: str
    err: str


def prefine(*arguments: str) -> Result:
    """Run the command's own entry point in this process."""
    before, path, out, err = sys.argv, [*sys.path], io.StringIO(), io.StringIO()
    sys.argv = ["prefine", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            app.main()
    except SystemExit as end:
        return Result(end.code, out.getvalue(), err.getvalue())
    finally:
        # The command looks for users' modules in its folder, which is that of this test alone.
        sys.argv, sys.path[:] = before, path
    raise AssertionError("the command did not exit")


class Started:
    """The command in a process of its own; as `subprocess.Popen`, as far as tests need it."""

    def __init__(self, arguments: tuple[str, ...], env: Mapping[str, str]) -> None:
        self._said = [Path(tempfile.mkdtemp()) / name for name in ("out", "err")]
        variables = os.environ | {"COLUMNS": "200"} | env
        self._process = _SERVER.Process(
            target=_run, args=(arguments, variables, os.getcwd(), self._said)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("prefine", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        return out, err


def _run(
    arguments: tuple[str, ...], variables: dict[str, str], folder: str, said: list[Path]
) -> None:
    """The command in the process that was forked for it."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8") for number in (1, 2))  # noqa: SIM115
    if threads := variables.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    sys.argv = ["prefine", *arguments]
    app.main()


def start(*arguments: str, env: Mapping[str, str] | None = None) -> Started:
    """Start the command in a process of its own.

    Args:
        arguments: Of the command.
        env: Variables beside those of this process.
    """
    return Started(arguments, env or {})


def prefine_process(*arguments: str, limits: Callable[[], None]) -> Result:
    """Run the command in a fresh process to its end.

    Args:
        arguments: Of the command.
        limits: Called in the process before the command begins.
    """
    done = subprocess.run(
        [sys.executable, "-c", "from prefine.cli.app import main; main()", *arguments],
        capture_output=True,
        text=True,
        preexec_fn=limits,
        env=os.environ | {"COLUMNS": "200"},
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)
