"""The errors of prefine, each with the exit code of the command line.

The failure of one item is data (a record with its reason); the failure of a run is one of these
exceptions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class PrefineError(Exception):
    """A failure that the user can act on: the message says what is wrong, where, and what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(PrefineError):
    """The configuration or the command line cannot be carried out; nothing has been spent."""

    exit_code: ClassVar[int] = 2


class DataError(PrefineError):
    """A user's data file holds something that cannot be used."""

    exit_code: ClassVar[int] = 3


class BackendError(PrefineError):
    """A model, or the server behind it, cannot be loaded or stopped answering."""

    exit_code: ClassVar[int] = 4


class LimitError(PrefineError):
    """A limit was reached: too many failed calls, no space on the disk, too little data left."""

    exit_code: ClassVar[int] = 5


class NumericsError(PrefineError):
    """Training met a loss or gradient that is not finite; the optimizer step was not taken."""

    exit_code: ClassVar[int] = 5


class Interrupted(PrefineError):
    """The user stopped the run; the same command resumes it."""

    exit_code: ClassVar[int] = 6


@contextmanager
def noted_on(error: BaseException) -> Iterator[None]:
    """Let what fails while an error is on its way be a note on that error, and not replace it.

    Args:
        error: Raised again afterwards.
    """
    try:
        yield
    except Exception as also:  # noqa: BLE001 - it is told, as a note
        if also is not error:
            error.add_note(f"then {also}")


@contextmanager
def at_config_path(where: str, option: str) -> Iterator[None]:
    """Put the config path at fault before the message of an error that is raised inside.

    Args:
        where: The component's, such as "policy"; empty where there is no configuration, and nothing
            is put.
        option: The option at fault, such as "path".
    """
    path = option_path(where, option)
    try:
        yield
    except PrefineError as error:
        message = str(error)
        if where and not message.startswith(f"{path}: "):
            error.args = (f"{path}: {message}", *error.args[1:])
        raise


def option_path(where: str, option: str) -> str:
    """Return the config path of an option of the component at `where`, which may be empty."""
    return f"{where}.{option}" if where else option


class EndedElsewhere(Exception):
    """Another process of the same training has ended: its rank and its exit code."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(f"process {rank} has ended with exit code {code}")
        self.rank = rank
        self.code = code
