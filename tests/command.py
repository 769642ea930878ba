"""Runs the `prefine` command: in this process, which is fast, or in its own, which can be
killed and starved.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from prefine.cli import app


class Result(NamedTuple):
    """What a run of the command gave."""

    code: int
    out: str
    err: str


def prefine(*arguments: str) -> Result:
    """Run the command's own entry point in this process."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["prefine", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            app.main()
    except SystemExit as end:
        return Result(end.code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("the command did not exit")


def start(
    *arguments: str, limits: Callable[[], None] | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start the command in a process of its own.

    Args:
        arguments: Of the command.
        limits: Called in the process before the command begins.
        env: Variables beside those of this process.
    """
    return subprocess.Popen(
        [*_COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limits,
        env=os.environ | {"COLUMNS": "200"} | (env or {}),
    )


def prefine_process(*arguments: str, limits: Callable[[], None] | None = None) -> Result:
    """Run the command in a process of its own to its end."""
    process = start(*arguments, limits=limits)
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


_COMMAND = (sys.executable, "-c", "from prefine.cli.app import main; main()")
