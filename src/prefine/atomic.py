"""Files that are there whole or not at all: temporary file, fsync, rename."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefine.errors import ConfigError, LimitError

_NO_SPACE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_NOT_ALLOWED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn OSError into LimitError (no space) or ConfigError (no permission)."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise LimitError(
                f"{path}: no space to write ({error.strerror}). Everything journaled so far is "
                "kept; "
                "free some space and run the same command again"
            ) from error
        if error.errno in _NOT_ALLOWED:
            raise ConfigError(
                f"{path}: cannot write here ({error.strerror}); choose another folder with "
                "--run-dir"
            ) from error
        raise


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file in the same folder, then rename it to `path`.

    Raises:
        LimitError: The disk is full or a size limit was hit; the old file, if any, is unchanged.
        ConfigError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_atomically(
        path, lambda temporary: _write(temporary, text.encode("utf-8", "surrogatepass"))
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
