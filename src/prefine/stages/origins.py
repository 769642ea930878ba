"""The origin of a stage's results, for its manifest: command, code, libraries and time."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prefine.secrets import redacted_command

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
_PATIENCE_S = 10


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    return {name: found for name in _LIBRARIES if (found := _installed(name)) is not None}


@cache
def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def all_versions() -> dict[str, str]:
    """Versions of Python and of the libraries."""
    return {"python": platform.python_version(), **versions()}


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command() -> tuple[str, ...]:
    """The command line of this process, without keys and without the path of the program."""
    program, *arguments = sys.argv or [""]
    path = Path(program)
    name = path.parent.name if path.name == "__main__.py" else path.name
    # Bytes that are no UTF-8 are shown as they are written in Python.
    words = [one.encode("utf-8", "backslashreplace").decode() for one in (name, *arguments)]
    return redacted_command(words)


@cache
def commit() -> str | None:
    """The git commit of the running prefine; "…-dirty" if its checkout has other changes.

    None where prefine was installed without git: a folder that lies in somebody else's checkout
    does not count.
    """
    folder, this_file = Path(__file__).parent, f"HEAD:./{Path(__file__).name}"
    ours = _git(folder, "rev-parse", "--verify", this_file)
    found = _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return found if ours else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a very slow disk
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
