"""The lease of a run at a store: one machine at a time."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import stores
from prefine.errors import BackendError, ConfigError
from prefine.run import store_lease
from prefine.run.remote import Remote
from prefine.run.store_lease import StoreLease
from stores import FlakyFileSystem, silent


@pytest.fixture(autouse=True)
def _empty_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    stores.empty(monkeypatch)


def test_one_machine_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, said = Remote("memory://runs/one"), list[str]()
    first = StoreLease(remote, 1.0, said.append)
    assert first.number == 1
    # Its beat moves while another machine looks.
    monkeypatch.setattr(store_lease.time, "sleep", lambda seconds: first.beat())
    with pytest.raises(ConfigError, match=r"another machine .* is working on this run"):
        StoreLease(remote, 1.0, said.append)
    monkeypatch.undo()
    # It does not: after the time that it named itself, the other one takes over.
    began = time.monotonic()
    second = StoreLease(remote, 1.0, said.append)
    assert second.number == 2
    assert time.monotonic() - began >= 1.0
    with pytest.raises(BackendError, match="another machine has taken this run over"):
        first.beat()
    second.beat()
    second.release()
    began = time.monotonic()
    assert StoreLease(remote, 60.0, said.append).number == 3
    assert time.monotonic() - began < 1.0
    assert len(said) == 2


def test_of_two_that_take_over_one_gets_it() -> None:
    remote = Remote("memory://runs/one")
    assert remote.create("lease/000007.json", b"mine")
    assert not remote.create("lease/000007.json", b"theirs")
    assert remote.read("lease/000007.json") == b"mine"


def test_a_beat_has_one_time_for_all_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote("flaky://runs/one", patience_s=30)
    lease = StoreLease(remote, 60.0, silent)
    find, calls = FlakyFileSystem.find, list[float]()

    def slow(self: FlakyFileSystem, *args: Any, **kwargs: Any) -> Any:
        """The listing takes two tries; the write never gets through."""
        calls.append(time.monotonic())
        if len(calls) == 1:
            FlakyFileSystem.writes_left = 0
            raise OSError("slow")
        return find(self, *args, **kwargs)

    monkeypatch.setattr(FlakyFileSystem, "find", slow)
    began = time.monotonic()
    with pytest.raises(BackendError, match="the store is out of order"), remote.within(0.5):
        lease.beat()
    assert time.monotonic() - began < 0.6


def test_a_process_that_died_on_this_machine_is_not_waited_for() -> None:
    remote = Remote("memory://runs/one")
    held = StoreLease(remote, 60.0, silent)
    value = json.loads(remote.read("lease/000001.json"))
    remote.write("lease/000001.json", json.dumps(value | {"pid": 2**22 + 1}).encode())
    began = time.monotonic()
    assert StoreLease(remote, 60.0, silent).number == held.number + 1
    assert time.monotonic() - began < 5


def test_a_process_of_another_container_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote("memory://runs/one")
    StoreLease(remote, 1.0, silent)
    value = json.loads(remote.read("lease/000001.json"))
    # Its number names no process here, where processes are numbered apart.
    remote.write("lease/000001.json", json.dumps(value | {"pid": 2**22 + 1}).encode())
    (tmp_path / "pid").touch()
    monkeypatch.setattr(store_lease, "_PIDS", tmp_path / "pid")
    began = time.monotonic()
    assert StoreLease(remote, 1.0, silent).number == 2
    assert time.monotonic() - began >= 1.0
