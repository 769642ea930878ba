"""Stores in the memory of this process that are out of order, or write in place as SFTP does."""

import errno
import importlib
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from prefine.calls.protocol import JournalGroup
from prefine.config.storage import StorageConfig


class FlakyFileSystem(MemoryFileSystem):
    """The memory, which does not answer from some write on for as long as a test says."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its base has it
    pseudo_dirs = [""]  # noqa: RUF012
    writes_left: int | None = None

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if FlakyFileSystem.writes_left is not None:
            if FlakyFileSystem.writes_left <= 0:
                raise OSError("the store is out of order")
            FlakyFileSystem.writes_left -= 1
        super().pipe_file(path, value, mode, **kwargs)


class InPlaceFileSystem(MemoryFileSystem):
    """The memory, as SFTP: a file is there while it is being written. It stands in for that."""

    protocol = "sftp"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    killed = False
    replaces = True

    def __init__(self, **settings: Any) -> None:
        if settings:
            raise TypeError(f"connect() got unexpected keyword arguments {sorted(settings)}")
        super().__init__()
        self._busy = threading.Lock()

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if not self._busy.acquire(blocking=False):
            raise ValueError("Garbage packet received: a connection takes one call at a time")
        try:
            time.sleep(0.01)
            self._write_in_place(path, value, mode, **kwargs)
        finally:
            self._busy.release()

    def _write_in_place(self, path: str, value: bytes, mode: str, **kwargs: Any) -> None:
        super().pipe_file(path, value[: len(value) // 2], mode, **kwargs)
        if InPlaceFileSystem.killed:
            raise KeyboardInterrupt
        super().pipe_file(path, value, **kwargs)

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def mv(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        before, after = self._strip_protocol(path1), self._strip_protocol(path2)
        if after in self.store and not InPlaceFileSystem.replaces:
            raise SMBOSError(errno.EEXIST, "File exists")
        self.store[after] = self.store.pop(before)


class SMBOSError(OSError):
    """As `smbprotocol` raises it: with a number, and of no class of Python's own."""


_REGISTERED = importlib.import_module("fsspec.registry")._registry


def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a test with stores that are empty and in order."""
    kinds = {"flaky": FlakyFileSystem, "sftp": InPlaceFileSystem}
    for name, kind in kinds.items():
        monkeypatch.setitem(_REGISTERED, name, kind)
    for kind in (MemoryFileSystem, *kinds.values()):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    FlakyFileSystem.writes_left = None
    InPlaceFileSystem.killed, InPlaceFileSystem.replaces = False, True


def storage(**values: Any) -> StorageConfig:
    return StorageConfig(**{"url": "memory://runs/one", "patience_s": 0.5, **values})


def silent(text: str) -> None:
    del text


def group(*keys: str, **values: Any) -> JournalGroup:
    return JournalGroup("rank", [], list(keys), {key: f'"{key}"' for key in keys}, **values)
