"""Files at a store are there whole or not at all, on a disk and where a store writes in place."""

import errno
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

import stores
from prefine.errors import BackendError
from prefine.run.folder import RunFolder
from prefine.run.mirror import mirrored
from prefine.run.remote import Remote
from stores import InPlaceFileSystem, SMBOSError, group, silent, storage


@pytest.fixture(autouse=True)
def _empty_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    stores.empty(monkeypatch)


def test_files_on_a_disk_are_whole_and_a_lease_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefine.run.remote._WHOLE_BYTES", 4)
    remote, journal = Remote(f"file://{tmp_path}/run", patience_s=0.3), tmp_path / "large"
    journal.write_bytes(b"journal")
    remote.upload(journal, "journal/whole.sqlite")

    def killed(file: Path, to: Path) -> None:
        to.write_bytes(file.read_bytes()[:3])
        raise KeyboardInterrupt

    monkeypatch.setattr("prefine.run.remote._copy", killed)
    journal.write_bytes(b"a later one")
    with pytest.raises(KeyboardInterrupt):
        remote.upload(journal, "journal/whole.sqlite")
    assert remote.read("journal/whole.sqlite") == b"journal"
    (tmp_path / "run" / "journal" / ".whole.sqlite.7.tmp").write_bytes(b"a l")
    assert list(remote.listing()) == ["journal/whole.sqlite"]
    # Two looked at the same moment, and saw no lease.
    monkeypatch.setattr(LocalFileSystem, "exists", lambda self, path, **_: False)
    assert remote.create("lease/000001.json", b"mine")
    assert not remote.create("lease/000001.json", b"theirs")
    assert remote.read("lease/000001.json") == b"mine"


@pytest.mark.parametrize("replaces", [True, False])
def test_files_of_a_store_that_writes_in_place_are_whole(
    replaces: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InPlaceFileSystem, "replaces", replaces)
    monkeypatch.setattr("prefine.run.remote._WHOLE_BYTES", 8)
    remote, large = Remote("sftp://host/runs/one", patience_s=0.5), tmp_path / "large"
    large.write_bytes(b"many weights")
    for _ in range(2):  # the second one replaces the first
        remote.write("manifest.json", b'{"a": 1}')
        remote.upload(large, "model/weights")
    monkeypatch.setattr(InPlaceFileSystem, "killed", True)
    with pytest.raises(KeyboardInterrupt):
        remote.write("manifest.json", b'{"a": 1, "b": 2}')
    large.write_bytes(b"other weights")
    with pytest.raises(KeyboardInterrupt):
        remote.upload(large, "model/weights")
    with pytest.raises(KeyboardInterrupt):
        remote.write("pairs/part-00000.parquet", b"rows")
    monkeypatch.setattr(InPlaceFileSystem, "killed", False)
    there = Remote("sftp://host/runs/one")
    assert sorted(there.listing()) == ["manifest.json", "model/weights"]
    assert there.read("manifest.json") == b'{"a": 1}'
    assert there.read("model/weights") == b"many weights"
    remote.write("manifest.json", b'{"a": 1, "b": 2}')
    assert there.read("manifest.json") == b'{"a": 1, "b": 2}'


def test_a_missing_file_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: InPlaceFileSystem, path: str, **_: Any) -> bytes:
        raise SMBOSError(errno.ENOENT, "No such file", path)

    monkeypatch.setattr(InPlaceFileSystem, "cat_file", missing)
    with pytest.raises(FileNotFoundError):
        Remote("sftp://host/runs/one", patience_s=0.5).read("config.json")


def test_a_run_at_a_store_that_writes_in_place_is_fetched_by_another_machine(
    tmp_path: Path,
) -> None:
    there = storage(url="sftp://host/runs/one")
    with mirrored(tmp_path / "run", there, silent), RunFolder(tmp_path / "run") as folder:
        folder.journal().write(group("a"))
        for name in ("state.json", "a.json", "b.json", "c.json"):
            (tmp_path / "run" / name).write_text("{}")
    other = tmp_path / "other"
    with mirrored(other, there, silent), RunFolder(other) as folder:
        assert folder.journal().answers("a").keys() == {"a"}
        assert (other / "state.json").read_text() == "{}"


def test_a_store_that_cannot_be_connected_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: InPlaceFileSystem) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(InPlaceFileSystem, "__init__", refused)
    words = r"sftp://host/runs/one: cannot be opened \(ConnectionRefusedError: .*Connection refused"
    with pytest.raises(BackendError, match=words):
        Remote("sftp://host/runs/one")
