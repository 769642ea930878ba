"""The journal: what is stored survives, what was asked is counted, what failed is asked again."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prefine.calls.protocol import JournalGroup
from prefine.errors import ConfigError, DataError
from prefine.run.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "part-00000.sqlite"


def store(journal: Journal, answers: dict[str, str]) -> None:
    journal.write(JournalGroup(answers=answers))


def asked(journal: Journal, *keys: str) -> int:
    return journal.write(JournalGroup("rank", asked=list(keys)))


def test_answers_come_back_in_another_process_too(path: Path) -> None:
    first = Journal(path)
    store(first, {"a": '{"text": "\u2028 \u00e9"}', "b": "2"})
    child = os.fork()
    if child == 0:
        # No farewell: nothing may depend on closing.
        store(Journal(path), {"c": "3"})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert Journal(path).answers(["a", "b", "c", "d"]) == {
        "a": '{"text": "\u2028 \u00e9"}',
        "b": "2",
        "c": "3",
    }
    assert first.count() == 3


def test_an_answer_is_never_overwritten(path: Path) -> None:
    journal = Journal(path)
    store(journal, {"a": "1"})
    store(journal, {"a": "2", "b": "3"})
    assert journal.answers(["a", "b"]) == {"a": "1", "b": "3"}


def test_a_batch_is_stored_whole_or_not_at_all(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(DataError):
        store(journal, {"a": "1", "b": None})  # type: ignore[dict-item]
    assert journal.count() == 0
    store(journal, {"a": "1"})
    assert journal.count() == 1


def test_calls_in_flight_are_counted(path: Path) -> None:
    journal = Journal(path)
    assert asked(journal, "a", "b", "c") == 0
    store(journal, {"a": "1"})
    journal.write(JournalGroup(failed={"b": '{"calls": 1}'}))
    assert journal.failed_usages(["a", "b"]) == ['{"calls": 1}']
    journal.close()
    again = Journal(path)
    assert asked(again, "b", "c", "d") == 1
    assert asked(again) == 0
    assert asked(again, "c") == 1
    assert Journal(path).repeats("rank") == 2
    assert Journal(path).repeats("sample") == 0


def test_more_keys_than_sqlite_takes_at_once(path: Path) -> None:
    journal = Journal(path)
    keys = [f"key {n}" for n in range(2500)]
    asked(journal, *keys)
    store(journal, {key: str(n) for n, key in enumerate(keys)})
    assert len(journal.answers(iter(keys))) == 2500


def test_a_damaged_file_is_named_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all\n" * 500)
    before = path.read_bytes()
    with pytest.raises(DataError, match="journal is damaged") as caught:
        Journal(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_damaged_page_is_named(path: Path) -> None:
    journal = Journal(path)
    store(journal, {f"{n}": "x" * 1000 for n in range(100)})
    journal.close()
    content = bytearray(path.read_bytes())
    content[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        Journal(path).answers([str(n) for n in range(100)])


def test_places_where_no_journal_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--run-dir"):
        Journal(tmp_path / "file" / "part.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(ConfigError, match="--run-dir"):
        Journal(tmp_path / "folder.sqlite")


def test_a_changed_answer_is_named(path: Path) -> None:
    journal = Journal(path)
    store(journal, {"a": "1", "b": "22"})
    journal.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE answers SET answer = '23' WHERE key = 'b'")
        database.commit()
    again = Journal(path)
    assert again.answers(["a"]) == {"a": "1"}
    with pytest.raises(DataError, match=r"answer b of this journal is damaged\. Restore it"):
        again.answers(["a", "b"])


def test_a_journal_without_checksums_is_read_and_goes_on(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE asked (key TEXT PRIMARY KEY) WITHOUT ROWID;"
            "CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE failed (key TEXT NOT NULL, usage TEXT NOT NULL);"
            "INSERT INTO asked VALUES ('a'), ('b');"
            "INSERT INTO answers VALUES ('a', '1');"
        )
    journal = Journal(path)
    assert journal.answers(["a", "b"]) == {"a": "1"}
    assert asked(journal, "b", "c") == 1
    store(journal, {"b": "2"})
    journal.close()
    assert Journal(path).answers(["a", "b"]) == {"a": "1", "b": "2"}
