"""A run folder at a URL, in the memory of this process: leases, segments, failures, machines."""

import json
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import stores
from command import prefine
from prefine import train as prefine_train
from prefine.calls.protocol import JournalGroup, Submission
from prefine.config.storage import as_url, is_url
from prefine.errors import BackendError, DataError
from prefine.run import mirror, segments, store_lease
from prefine.run.folder import RunFolder
from prefine.run.journal import Journal
from prefine.run.mirror import Mirror, mirrored
from prefine.run.remote import Remote
from prefine.run.store_lease import StoreLease
from run_place import BACKEND, CONFIG, OK, Place
from stores import FlakyFileSystem, group, silent, storage


@pytest.fixture(autouse=True)
def _empty_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    stores.empty(monkeypatch)


def test_urls_are_told_from_paths() -> None:
    urls = {
        "s3://bucket/run": "s3://bucket/run",
        str(Path("s3://bucket/run")): "s3://bucket/run",
        "file:///tmp/run/": "file:///tmp/run",
        str(Path("file:///tmp/run")): "file:///tmp/run",
        "memory://one": "memory://one",
    }
    assert {text: as_url(text) for text in urls} == urls
    assert all(map(is_url, urls))
    assert not any(map(is_url, ("runs/one", "/runs/s3://x", "C:/runs", "C:\\runs", "a:b", "")))


def test_groups_come_back_as_they_were_written() -> None:
    groups = [
        JournalGroup("rank", [(Submission("t", None), ["a", "b"])], ["a"], {"a": "ü\u2028\ud800"}),
        JournalGroup("rank", [], ["b"], {}, {"b": '{"calls": 1}'}),
    ]
    assert segments.decode(segments.encode(groups), "here") == groups


def test_nothing_is_written_under_a_lease_that_was_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, remote = tmp_path / "run", Remote("memory://runs/one")
    now = store_lease._now
    with mirrored(place, storage(lease_s=60, patience_s=30), silent):
        (opened,) = mirror.OPEN.values()
        # The process slept for longer than the lease.
        monkeypatch.setattr(store_lease, "_now", lambda: now() + 61)
        later = threading.Thread(target=opened.remote.write, args=("state.json", b"{}"))
        later.start()
        later.join(0.5)
        assert "state.json" not in remote.listing()
        # No other machine has taken over, and it goes on.
        opened._lease.beat()
        later.join()
        assert remote.read("state.json") == b"{}"


def test_the_lease_is_renewed_while_a_run_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, kept = Remote("memory://runs/one"), Remote.download
    remote.write("model/model.safetensors", b"weights")
    beats = list[int]()

    def slow(self: Remote, name: str, to: Path) -> None:
        time.sleep(0.8)
        beats.append(json.loads(remote.read("lease/000001.json"))["beat"])
        kept(self, name, to)

    monkeypatch.setattr(Remote, "download", slow)
    with mirrored(tmp_path / "run", storage(lease_s=1), silent):
        pass
    assert beats[0] >= 1


def test_a_journal_is_built_again_from_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_COMPACT", 1)
    for machine, keys in (("first", "abc"), ("second", "de")):
        place = tmp_path / machine
        with mirrored(place, storage(), silent), RunFolder(place) as folder:
            journal = folder.journal()
            for key in keys:
                journal.write(group(key))
                folder.mirror.settle()
            journal.write(JournalGroup("rank", [], ["x"], {}, {"x": '{"calls": 1}'}))
    with mirrored(tmp_path / "third", storage(), silent), RunFolder(tmp_path / "third") as folder:
        journal = folder.journal()
        assert journal.answers("abcde") == {key: f'"{key}"' for key in "abcde"}
        assert journal.failed_usages(["x"]) == ['{"calls": 1}'] * 2
        assert journal.repeats("rank") == 0
    names = Remote("memory://runs/one").listing("journal")
    # Five answers and two failures, of which the whole journal has most.
    assert sorted(name.rpartition(".")[2] for name in names) == ["gz", "sqlite"]


def test_answers_wait_no_longer_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SEGMENT_S", 60.0)
    monkeypatch.setattr(mirror, "MOST_UNSENT", 3)
    remote = Remote("memory://runs/one")
    with mirrored(tmp_path / "run", storage(), silent), RunFolder(tmp_path / "run") as folder:
        journal = folder.journal()
        journal.write(group("a", "b"))
        assert not remote.listing("journal")
        journal.write(group("c"))
        assert len(remote.listing("journal")) == 1
        # A batch that was handed over would be paid for twice: it is there at once.
        journal.write(JournalGroup("rank", [(Submission("t", "id"), ["l"])]))
        assert len(remote.listing("journal")) == 2


def test_what_this_machine_did_not_send_is_sent_when_it_goes_on(tmp_path: Path) -> None:
    place, remote = tmp_path / "run", Remote("memory://runs/one")
    with mirrored(place, storage(), silent), RunFolder(place) as folder:
        folder.journal().write(group("a"))
    # As after a kill: the end of the journal, and a file, were written and not sent.
    state = json.loads((place / ".mirror.json").read_text())
    (place / ".mirror.json").write_text(json.dumps(state | {"clean": False}))
    journal = Journal(place / "journal" / "part-00000.sqlite")
    journal.write(group("b"))
    journal.close()
    (place / "train_log.jsonl").write_text("{}\n")
    with mirrored(place, storage(), silent), RunFolder(place):
        pass
    assert remote.read("train_log.jsonl") == b"{}\n"
    with mirrored(tmp_path / "other", storage(), silent), RunFolder(tmp_path / "other") as folder:
        assert folder.journal().answers("ab").keys() == {"a", "b"}
    # The other machine has written since, so this one's folder is put aside and made anew.
    said = list[str]()
    (place / "train_log.jsonl").write_text("old\n")
    with mirrored(place, storage(), said.append), RunFolder(place):
        assert (place / "train_log.jsonl").read_text() == "{}\n"
    assert "was written by another machine since" in said[0]
    (aside,) = tmp_path.glob("run.before-*")
    assert (aside / "train_log.jsonl").read_text() == "old\n"


def test_a_holder_that_was_killed_before_it_wrote_is_no_other_machine(tmp_path: Path) -> None:
    place, remote = tmp_path / "run", Remote("memory://runs/one")
    with mirrored(place, storage(), silent), RunFolder(place) as folder:
        folder.journal().write(group("a"))
    state = json.loads((place / ".mirror.json").read_text())
    (place / ".mirror.json").write_text(json.dumps(state | {"clean": False}))
    with closing(Journal(place / "journal" / "part-00000.sqlite")) as journal:
        journal.write(group("b"))
    for number in (2, 3):  # it took the lease, and no more
        StoreLease(remote, 60.0, silent)
        lease = json.loads(remote.read(f"lease/{number:06d}.json"))
        dead = json.dumps(lease | {"pid": 2**22 + 1}).encode()
        remote.write(f"lease/{number:06d}.json", dead)
    said = list[str]()
    with mirrored(place, storage(), said.append), RunFolder(place) as folder:
        assert folder.journal().answers("ab").keys() == {"a", "b"}
    assert (said, list(tmp_path.glob("run.before-*"))) == ([], [])


def test_a_kill_between_keeping_the_state_and_saying_so_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, kept = tmp_path / "run", StoreLease.begin_to_write

    def killed(self: StoreLease) -> None:
        raise KeyboardInterrupt

    for machine, key in ((place, "a"), (tmp_path / "other", "b")):
        with mirrored(machine, storage(), silent), RunFolder(machine) as folder:
            folder.journal().write(group(key))
        monkeypatch.setattr(StoreLease, "begin_to_write", killed)
        with pytest.raises(KeyboardInterrupt), mirrored(machine, storage(), silent):
            pass
        monkeypatch.setattr(StoreLease, "begin_to_write", kept)
        said = list[str]()
        with mirrored(machine, storage(), said.append):
            pass
        assert said == []
    # The other machine has written since; that this one began to go on does not hide it.
    monkeypatch.setattr(StoreLease, "begin_to_write", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), mirrored(place, storage(), said.append):
            pass
    monkeypatch.setattr(StoreLease, "begin_to_write", kept)
    with mirrored(place, storage(), said.append), RunFolder(place) as folder:
        assert folder.journal().answers("ab").keys() == {"a", "b"}
    assert len(said) == 1
    assert "was written by another machine since" in said[0]


def test_a_fetch_that_was_cut_off_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, other = tmp_path / "run", tmp_path / "other"
    with mirrored(place, storage(), silent), RunFolder(place) as folder:
        folder.journal().write(group("a"))
        (place / "pairs").mkdir()
        for name in ("pairs/part-00000.parquet", "state.json"):
            (place / name).write_text("{}")
    kept = segments.restore

    def killed(remote: Remote, pieces: Any, to: Path) -> int:
        kept(remote, pieces, to)
        raise KeyboardInterrupt

    monkeypatch.setattr(segments, "restore", killed)
    with pytest.raises(KeyboardInterrupt), mirrored(other, storage(), silent):
        pass
    assert (other / "pairs" / "part-00000.parquet").exists()
    monkeypatch.setattr(segments, "restore", kept)
    said = list[str]()
    with mirrored(other, storage(), said.append), RunFolder(other) as folder:
        assert folder.journal().count() == 1
        assert (other / "state.json").read_text() == "{}"
    assert (said, list(tmp_path.glob("other.before-*"))) == ([], [])


def test_a_restart_that_fails_does_not_lose_what_was_not_sent(tmp_path: Path) -> None:
    place, there = tmp_path / "run", storage(url="flaky://runs/one", lease_s=1)
    with mirrored(place, there, silent), RunFolder(place) as folder:
        folder.journal().write(group("a"))
    state = json.loads((place / ".mirror.json").read_text())
    (place / ".mirror.json").write_text(json.dumps(state | {"clean": False}))
    with closing(Journal(place / "journal" / "part-00000.sqlite")) as journal:
        journal.write(group("b"))
    # The lease is taken, and the journal cannot be sent.
    FlakyFileSystem.writes_left = 1
    with (
        pytest.raises(BackendError, match="the store is out of order"),
        mirrored(place, there, silent),
    ):
        pass
    FlakyFileSystem.writes_left = None
    with mirrored(place, there, silent), RunFolder(place) as folder:
        assert folder.journal().answers("ab").keys() == {"a", "b"}
    assert not list(tmp_path.glob("run.before-*"))
    other = tmp_path / "other"
    with mirrored(other, there, silent), RunFolder(other) as folder:
        assert folder.journal().answers("ab").keys() == {"a", "b"}


def test_answers_of_another_machine_are_kept_where_no_file_is_there_yet(tmp_path: Path) -> None:
    place, remote = tmp_path / "first", Remote("memory://runs/one")
    with mirrored(place, storage(), silent), RunFolder(place) as folder:
        folder.journal().write(group("a"))
    # It was lost after its first answers, and before its first file.
    remote.delete([name for name in remote.listing() if "journal/" not in name])
    second = tmp_path / "second"
    with closing(Journal(second / "journal" / "part-00000.sqlite")) as journal:
        journal.write(group("b"))
    with mirrored(second, storage(), silent), RunFolder(second) as folder:
        assert folder.journal().answers("ab").keys() == {"a"}


def test_files_follow_and_go(tmp_path: Path) -> None:
    place, remote = tmp_path / "run", Remote("memory://runs/one")
    with mirrored(place, storage(), silent):
        kept = Mirror.settle
        (place / "pairs").mkdir()
        (place / "pairs" / "part-00000.parquet").write_bytes(b"rows")
        (place / ".model.tmp").mkdir()
        (place / ".model.tmp" / "half").write_bytes(b"being written")
        (mirror_open,) = mirror.OPEN.values()
        kept(mirror_open)
        assert remote.read("pairs/part-00000.parquet") == b"rows"
        (place / "pairs" / "part-00000.parquet").unlink()
        remote.write("somebody-elses.txt", b"stays")
    assert sorted(remote.listing()) == ["lease/000001.json", "somebody-elses.txt"]


def by_url(*changes: str) -> tuple[str, ...]:
    local = (
        "--set",
        "storage.local=work",
        "--set",
        "storage.patience_s=1",
        "--set",
        "storage.lease_s=1",
    )
    return ("run", "run.yaml", "--run-dir", "flaky://runs/one", *local, *changes)


def test_a_store_that_fails_stops_the_run(place: Place) -> None:
    FlakyFileSystem.writes_left = 8
    done = prefine(*by_url())
    assert done.code == BACKEND
    assert "flaky://runs/one: cannot be reached" in done.err
    assert "the store is out of order" in done.err
    assert "Run the same command again" in done.err
    FlakyFileSystem.writes_left = None
    done = prefine(*by_url())
    assert done.code == OK, done.err
    assert prefine("run", "run.yaml", "--run-dir", "whole").code == OK
    remote = Remote("flaky://runs/one")
    for name in ("model/model.safetensors", "train_log.jsonl", "pairs/part-00000.parquet"):
        assert remote.read(name) == (place.root / "whole" / name).read_bytes()


def test_an_error_of_the_run_and_one_of_the_last_upload_are_both_told(
    tmp_path: Path,
) -> None:
    there = storage(url="flaky://runs/one", lease_s=1)
    lost = "then flaky://runs/one: cannot be reached (OSError: the store is out of order)"
    with (
        pytest.raises(DataError, match="no pairs") as raised,
        mirrored(tmp_path / "run", there, silent),
    ):
        FlakyFileSystem.writes_left = 0
        (tmp_path / "run" / "state.json").write_text("{}")
        raise DataError("no pairs")
    assert [one[: len(lost)] for one in raised.value.__notes__] == [lost]
    # An error of the store that stopped the run is told once.
    FlakyFileSystem.writes_left = None
    with (
        pytest.raises(BackendError, match="the store is out of order") as failed,
        mirrored(tmp_path / "run", there, silent),
        RunFolder(tmp_path / "run") as folder,
    ):
        FlakyFileSystem.writes_left = 0
        folder.journal().write(JournalGroup("rank", [(Submission("t", "id"), ["l"])]))
    assert not hasattr(failed.value, "__notes__")

    # Ctrl-C ends without a message, so the loss is said.
    FlakyFileSystem.writes_left, said = None, list[str]()
    with pytest.raises(KeyboardInterrupt), mirrored(tmp_path / "run", there, said.append):
        FlakyFileSystem.writes_left = 0
        (tmp_path / "run" / "state.json").write_text("{  }")
        raise KeyboardInterrupt
    assert said[-1].startswith(f"interrupted; {lost}")


def test_no_answer_is_used_that_the_store_does_not_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MOST_UNSENT", 2)
    place, url = tmp_path / "run", "flaky://runs/one"
    with (
        pytest.raises(BackendError, match="the store is out of order"),
        mirrored(place, storage(url=url, lease_s=1), silent),
        RunFolder(place) as folder,
    ):
        journal = folder.journal()
        FlakyFileSystem.writes_left = 0
        journal.write(group("a"))
        journal.write(group("b"))
    FlakyFileSystem.writes_left = None
    # The answers are on this disk, and go to the store when the command runs again.
    with mirrored(place, storage(url=url, lease_s=1), silent), RunFolder(place) as folder:
        assert folder.journal().count() == 2
    other = tmp_path / "other"
    with (
        mirrored(other, storage(url=url), silent),
        closing(Journal(other / "journal" / "part-00000.sqlite")) as journal,
    ):
        assert journal.count() == 2


def test_training_waits_for_a_store_that_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_LOOK_S", 0.02)
    late = storage(url="flaky://runs/one", behind_s=0.1, patience_s=30)
    with mirrored(tmp_path / "run", late, silent), RunFolder(tmp_path / "run") as folder:
        FlakyFileSystem.writes_left = 0
        (tmp_path / "run" / "state.json").write_text("{}")
        time.sleep(0.4)
        answers = threading.Timer(0.5, lambda: setattr(FlakyFileSystem, "writes_left", None))
        answers.start()
        began = time.monotonic()
        assert folder.mirror is not None
        folder.mirror.check()
        assert time.monotonic() - began > 0.3
        assert Remote("flaky://runs/one").read("state.json") == b"{}"
        answers.join()


def test_files_are_sent_while_answers_keep_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, remote = tmp_path / "run", Remote("memory://runs/one")
    written, over = Remote.write, threading.Event()
    with mirrored(place, storage(), silent):
        (opened,) = mirror.OPEN.values()
        journal = opened.folder / "journal" / "part-00000.sqlite"

        def answered(self: Remote, name: str, content: bytes) -> None:
            """Send a segment, during which another answer comes."""
            if name.endswith(".gz") and not over.is_set() and len(remote.listing("journal")) < 50:
                time.sleep(0.02)
                opened.journaled(journal, group(name))
            written(self, name, content)

        monkeypatch.setattr(Remote, "write", answered)
        monkeypatch.setattr(mirror, "SEGMENT_S", 0.0)
        (place / "state.json").write_text("{}")
        opened.journaled(journal, group("a"))
        opened._sync_files(whole=False)
        over.set()
        assert remote.read("state.json") == b"{}"
        assert len(remote.listing("journal")) < 50


def test_reading_needs_no_lease(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place.root / "home"))
    assert prefine(*by_url()).code == OK
    held = StoreLease(Remote("flaky://runs/one"), 60.0, silent)
    shown = prefine("config", "show", "flaky://runs/one")
    assert (shown.code, shown.out.splitlines()[0]) == (OK, "run_dir: flaky://runs/one")
    assert prefine("report", "flaky://runs/one").code == OK
    assert prefine("run", "run.yaml", "--run-dir", "here").code == OK
    done = prefine("compare", "flaky://runs/one", "here")
    assert done.code == OK, done.err
    read = place.root / "home" / ".cache" / "prefine" / "read"
    assert not list(read.rglob("model.safetensors"))
    held.beat()
    done = prefine("compare", "flaky://runs/none", "here")
    assert (done.code, "there is no run here" in done.err) == (CONFIG, True)


def test_python_trains_at_a_url(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place.root / "home"))
    settings = {"max_steps": 1, "pairs_per_step": 2}
    pairs = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(4)]
    trained = prefine_train("model", pairs, output_dir="flaky://runs/api", settings=settings)
    there = Remote("flaky://runs/api").read("model/model.safetensors")
    assert (trained.path / "model.safetensors").read_bytes() == there


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--run-dir", "nowhere9://x/y"), "this kind of URL cannot be opened"),
        (("--set", "storage.local=work"), "storage: is for a run_dir by URL"),
        (("--run-dir", "memory://x", "--set", "storage.lease_s=0"), "storage.lease_s"),
        (("--run-dir", "memory://x", "--set", "storage.options={secret: abc}"), "keys are never"),
    ],
)
def test_wrong_settings_are_explained(
    arguments: tuple[str, ...], words: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(place.root / "home"))
    done = prefine("run", "run.yaml", *arguments)
    assert (done.code, words in done.err) == (CONFIG, True), done.err
