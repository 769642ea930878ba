"""End a command with one clear line and an exit code, whatever happened."""

import os
import re
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import typer

from prefine.errors import ConfigError, Interrupted, PrefineError
from prefine.secrets import redact

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_INTERRUPTED = 130  # what typer makes of Ctrl-C, as shells do

# The base of all usage errors: click's own class, or that of the click that newer versions of typer
# carry.
_CommandLineError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


def guarded(command: Callable[[], Any]) -> int:
    """Run a command and return its exit code.

    Errors go to stderr, without a traceback unless the fault is ours.
    """
    try:
        code = command()
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except PrefineError as error:
        complain("; ".join([str(error), *getattr(error, "__notes__", ())]))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted; the same command goes on from here")
        return Interrupted.exit_code
    except _CommandLineError as error:
        error.show()
        # Here and not above: most commands are written right.
        from prefine.cli.usage import usage_hint

        if hint := usage_hint(error):
            sys.stderr.write(f"{hint}\n")
        return ConfigError.exit_code
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last boundary: whatever arrives here is our bug
        sys.stderr.write(redact(traceback.format_exc()))
        complain(
            "this is a bug in prefine; what was journaled is kept. Please report the lines above"
        )
        return PrefineError.exit_code


def complain(text: str) -> None:
    """Write one line to stderr."""
    # Messages quote users' data and models' texts, which must not drive the terminal.
    sys.stderr.write(f"prefine: {visible(redact(text))}\n")


def visible(text: str) -> str:
    """Replace what would drive the terminal."""
    return _CONTROL.sub("�", text)


def terminal_columns() -> int | None:
    """Return the width of the terminal; None when the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def leave_threads(code: int) -> None:
    """Exit at once if a thread waits for a server, because the interpreter would wait for it."""
    from prefine.calls.threads import THREADS

    if any(thread.name.startswith(THREADS) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
